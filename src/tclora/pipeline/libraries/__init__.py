"""What a library holds, and changing it: list, show, rename, remove, import."""
