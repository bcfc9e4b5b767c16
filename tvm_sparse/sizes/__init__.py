"""Sizes of operators on panels, as integers; nothing here imports TVM."""
