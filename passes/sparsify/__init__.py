"""Phase 2: weights are packed, activations move to panels, epilogues are fused."""
