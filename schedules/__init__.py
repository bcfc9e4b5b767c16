"""TensorIR schedules, one operator family a file."""
