"""Phase 1: what exporters decompose becomes one operator again."""
