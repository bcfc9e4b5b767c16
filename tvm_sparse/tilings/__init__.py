"""How the work of a layer is cut, one kernel family a file."""
