"""Writes and allocations that fail, one in each run of the command line; see `__main__`."""
