"""Phase 1: operators that exporters write as several operators become whole again."""
