"""Experiments as code: one YAML, several seeds, every contestant at a scale chosen apart from the test."""
