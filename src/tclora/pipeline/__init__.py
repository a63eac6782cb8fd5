"""The only place where stages meet: run folders, the stages in order, and the two front doors.

`run.py` is the door for data, `merge_folders.py` the door for adapters. Nothing is imported here, so that
merging loads no training library.
"""
