"""Language models whose files have caches of past keys and values as inputs and outputs.

`decoder` imports them; each form of attention that exporters write has a file of its own.
"""
