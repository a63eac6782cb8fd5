"""A run in its stages: data, encode, cluster, train, merge, evaluate; each leaves a folder, whole or absent."""
