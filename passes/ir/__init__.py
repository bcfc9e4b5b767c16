"""What all passes stand on: rewriting, views, and the operators of this project."""
