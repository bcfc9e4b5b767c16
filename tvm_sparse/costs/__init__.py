"""Seconds that bytes, vectors and regions are expected to take."""
