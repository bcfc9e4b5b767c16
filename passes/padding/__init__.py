"""Tokens that a mask leaves out are computed no more: sentences lie one after another."""
