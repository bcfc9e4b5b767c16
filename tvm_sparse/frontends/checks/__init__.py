"""What a model says is checked before anything is believed or allocated."""
