"""Targets, and the rates of their cores and memories."""
