"""Phase 1: operators that exporters write as many are whole again."""
