"""Adding examples to a library: assign, open clusters, train what changed, merge again."""
