"""Which rows of a region run when, as integers or expressions; nothing here imports TVM."""
