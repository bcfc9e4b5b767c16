"""Phase 4: operators and regions become PrimFuncs."""
