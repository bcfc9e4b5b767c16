"""Readers of models: each turns its format into an `ImportedModel`."""
