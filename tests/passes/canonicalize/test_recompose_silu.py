import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.passes.canonicalize.recompose_silu import RecomposeSilu


def test_both_orders_become_one_operator():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                s = R.sigmoid(x)
                y = R.multiply(x, s)
                t = R.sigmoid(y)
                z = R.multiply(t, y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                y = R.nn.silu(x)
                z = R.nn.silu(y)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(RecomposeSilu()(Before), Expected, map_free_vars=True)


def test_a_gate_of_something_else_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 8), "float32"), gate: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                s = R.sigmoid(gate)
                y = R.multiply(x, s)
                scaled = R.multiply(x, R.const(1.702, "float32"))
                t = R.sigmoid(scaled)
                quick_gelu = R.multiply(x, t)
                z = R.add(y, quick_gelu)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(RecomposeSilu()(Before), Before)
