"""Merging folders of adapters: the request resolved, what must be learned, the output written and verified."""
