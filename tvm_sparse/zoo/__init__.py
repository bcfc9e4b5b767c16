"""Seeded models, built without a download."""
