"""Pruned networks, fast on plain CPUs: a graph-optimization plugin for Apache TVM.

engine = tvm_sparse.compile("model.onnx")
outputs = engine.run({"x": x})
engine.save("model.so")
engine = tvm_sparse.load("model.so")
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("tvm_sparse.passes") is None:
    raise ImportError(
        "tvm_sparse is not installed: its folders passes/ and schedules/ are mapped into the "
        "package at installation; run `pip install -e .` in the repository"
    )

if TYPE_CHECKING:
    from tvm_sparse import passes, schedules
    from tvm_sparse.compiler import compile
    from tvm_sparse.errors import TvmSparseError
    from tvm_sparse.pruning import prune
    from tvm_sparse.report.analysis import analyze
    from tvm_sparse.runtime.engine import Engine
    from tvm_sparse.runtime.loading import load
    from tvm_sparse.runtime.session import step_sessions
    from tvm_sparse.tuning.tune import tune

from tvm_sparse.version import __version__

__all__ = [
    "Engine", "TvmSparseError", "__version__", "analyze", "compile", "load", "passes", "prune",
    "schedules", "step_sessions", "tune",
]  # fmt: skip

_HOME = {
    "Engine": "runtime.engine",
    "TvmSparseError": "errors",
    "analyze": "report.analysis",
    "compile": "compiler",
    "load": "runtime.loading",
    "prune": "pruning",
    "step_sessions": "runtime.session",
    "tune": "tuning.tune",
}


def __dir__() -> list[str]:
    # `help(tvm_sparse)` and completion shall show what is imported late, too.
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # Late, so that `import tvm_sparse` and `tvm-sparse --help` do not wait for TVM.
    if name in _HOME:
        return getattr(importlib.import_module(f"tvm_sparse.{_HOME[name]}"), name)
    if name in ("passes", "schedules"):
        return importlib.import_module(f"tvm_sparse.{name}")
    raise AttributeError(f"module 'tvm_sparse' has no attribute {name!r}")
