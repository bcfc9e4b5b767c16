import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.passes.canonicalize.write_out_powers import WriteOutPowers


def test_small_powers_become_products():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                square = R.power(x, R.const(2.0, "float32"))
                cube = R.power(square, R.const(3.0, "float32"))
                fourth = R.power(cube, R.const(4.0, "float32"))
                fifth = R.power(fourth, R.const(5.0, "float32"))
                root = R.power(fifth, R.const(0.5, "float32"))
                R.output(root)
            return root

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((2, 8), "float32")):
            with R.dataflow():
                square = R.multiply(x, x)
                of_square = R.multiply(square, square)
                cube = R.multiply(of_square, square)
                of_cube = R.multiply(cube, cube)
                fourth = R.multiply(of_cube, of_cube)
                fifth = R.power(fourth, R.const(5.0, "float32"))
                root = R.power(fifth, R.const(0.5, "float32"))
                R.output(root)
            return root

    tvm.ir.assert_structural_equal(WriteOutPowers()(Before), Expected, map_free_vars=True)


def test_a_broadcast_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((8,), "float32")):
            with R.dataflow():
                y = R.power(x, R.const([[2.0], [2.0]], "float32"))
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(WriteOutPowers()(Before), Before)
