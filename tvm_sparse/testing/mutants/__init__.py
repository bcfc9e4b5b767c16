"""Mutated models, libraries, records and arrays, each given to the command line; see `__main__`."""
