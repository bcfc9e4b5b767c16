"""Helpers that the tests, benchmarks and tutorials share."""
