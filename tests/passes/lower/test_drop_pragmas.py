from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import tirx as T

import tvm_sparse
from tvm_sparse.passes.lower.drop_pragmas import DropPragmas
from tvm_sparse.testing.models import dataflow


@I.ir_module
class Before:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((8,), "float32")):
        with T.attr(0, "pragma_scope", "seq"):
            for i in T.serial(8):
                with T.attr(0, "another", 1):
                    x[i] = x[i] + T.float32(1)


@I.ir_module
class Expected:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((8,), "float32")):
        for i in T.serial(8):
            with T.attr(0, "another", 1):
                x[i] = x[i] + T.float32(1)


def test_marks_of_scopes_are_dropped():
    tvm.ir.assert_structural_equal(DropPragmas()(Before), Expected)


def test_scatters_and_constant_indices_compile_without_a_word(capfd):
    def network(emit, x):
        rows = emit(relax.op.take(x, relax.const(np.array([1, 0])), 0))
        return emit(relax.op.scatter_nd(x, relax.const(np.array([[1], [0]])), rows))

    x = np.float32([[1, 2, 3], [4, 5, 6]])
    engine = tvm_sparse.compile(dataflow(network, (2, 3)), threads=1, kernel_cache=False)
    assert not capfd.readouterr().err
    np.testing.assert_array_equal(next(iter(engine.run({"x0": x}).values())), x)
