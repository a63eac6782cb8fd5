"""Evaluating many adapters on tasks: what is asked for, where generated code runs, the scores."""
