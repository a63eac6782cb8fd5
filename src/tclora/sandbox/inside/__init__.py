"""What runs inside the jail, before and around the program. Standard library only: it is sent there as text."""
