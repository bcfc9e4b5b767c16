"""Text from a language model, token by token, on a session that keeps what was read."""
