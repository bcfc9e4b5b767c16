"""Passes over Relax modules, one a file; `pipeline` is their table of contents."""
