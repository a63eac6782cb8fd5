"""`python -m tclora`: the command line."""

from tclora.cli import entry

entry()
