"""Hook that `import tvm` calls (entry-point group ``tvm.backends``): registers our pipeline."""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Register the Relax pipeline ``"tvm_sparse"``; its passes are imported when it runs."""
    import tvm

    if tvm.base._RUNTIME_ONLY:  # a deployment machine: there is no tvm.relax
        return
    from tvm import relax

    @relax.register_pipeline("tvm_sparse")
    def tvm_sparse(**options: Any) -> tvm.transform.Pass:
        from tvm_sparse.passes import pipeline

        return pipeline.pipeline(**options)
