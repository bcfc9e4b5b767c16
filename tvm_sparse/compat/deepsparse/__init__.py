"""DeepSparse's interface: a program that imports this package instead runs on tvm-sparse.

from tvm_sparse.compat.deepsparse import Engine, compile_model, Scheduler

Names, keywords and defaults are those of DeepSparse 1.8.
"""

from tvm_sparse.compat.deepsparse.benchmark import benchmark_model
from tvm_sparse.compat.deepsparse.engine import Engine, compile_model
from tvm_sparse.compat.deepsparse.results import BatchBenchmarkResult, BenchmarkResults
from tvm_sparse.compat.deepsparse.scheduler import Scheduler
from tvm_sparse.compat.deepsparse.shared import Context, MultiModelEngine

__all__ = [
    "BatchBenchmarkResult",
    "BenchmarkResults",
    "Context",
    "Engine",
    "MultiModelEngine",
    "Scheduler",
    "benchmark_model",
    "compile_model",
]
