"""Phase 3: operators are grouped into regions, which run as tensor columns."""
