"""``torch.compile(model, backend="tvm_sparse")``."""
