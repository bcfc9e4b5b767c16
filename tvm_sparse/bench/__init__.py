"""Races with other engines."""
