"""The packed forms of weights."""
