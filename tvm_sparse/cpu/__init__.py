"""What a target is, and what one of its cores does in a cycle or a second."""
