"""How weights are packed."""
