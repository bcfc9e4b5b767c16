"""What was measured, and how the compiler looks it up."""
