"""Helpers that the tests share: small modules and random pruned weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

Emit = Callable[[relax.Expr], relax.Var]


def pruned(rng: np.random.Generator, shape: Sequence[int], density: float) -> NDArray[np.float32]:
    """Return random weights of which about `density` are not zero."""
    kept = rng.random(shape) < density
    return np.where(kept, rng.standard_normal(shape), 0).astype("float32")


def dataflow(body: Callable[..., relax.Expr], *shapes: Sequence[int]) -> tvm.IRModule:
    """Return a module whose ``main`` takes float32 tensors and computes ``body(emit, *tensors)``.

    `emit` binds an expression to a variable of the dataflow block.
    """
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(tuple(shape), "float32"))
        for i, shape in enumerate(shapes)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def operators_of(mod: tvm.IRModule) -> list[str]:
    """Return the names of the operators that ``main`` calls, in order, without ``relax.``."""
    names: list[str] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            names.append(expr.op.name.removeprefix("relax."))

    relax.analysis.post_order_visit(mod["main"], visit)
    return names


def run(executable: relax.VMExecutable, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run ``main`` of a compiled module that returns one tensor."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(x) for x in inputs]).numpy()
