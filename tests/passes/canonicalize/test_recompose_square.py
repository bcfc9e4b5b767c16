import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.passes.canonicalize.recompose_square import RecomposeSquare


def test_only_squares_become_products():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                y = R.power(x, R.const(2.0, "float32"))
                z = R.power(y, R.const(3.0, "float32"))
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                y = R.multiply(x, x)
                z = R.power(y, R.const(3.0, "float32"))
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(RecomposeSquare()(Before), Expected, map_free_vars=True)


def test_a_broadcast_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((8,), "float32")):
            with R.dataflow():
                y = R.power(x, R.const([[2.0], [2.0]], "float32"))
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeSquare()(Before), Before)
