"""Finds the best tilings, lanes and column plans by measuring them."""
