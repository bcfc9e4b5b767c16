"""One stage a file: the loop nest of an operator on panels."""
