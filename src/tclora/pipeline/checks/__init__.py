"""Checking adapters against what a server accepts, and writing copies that load."""
