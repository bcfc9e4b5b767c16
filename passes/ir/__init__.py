"""The basis of all passes: rewriting, views, shapes, and the operators of this package."""
