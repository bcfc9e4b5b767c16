import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.sink_views import SinkViews
from tvm_sparse.testing.models import dataflow

W = relax.const(np.arange(48).reshape(8, 6) / 48, "float32")
BIAS = relax.const(np.arange(6) / 6, "float32")


def check(shape, before, after):
    actual = SinkViews()(dataflow(before, shape))
    tvm.ir.assert_structural_equal(actual, dataflow(after, shape))
    # What is sunk stays there.
    tvm.ir.assert_structural_equal(SinkViews()(actual), actual)


def test_gemm_between_reshapes_becomes_batched():
    def before(emit, x):
        flat = emit(relax.op.reshape(x, (15, 8)))
        y = emit(relax.op.add(emit(relax.op.matmul(flat, W)), BIAS))
        return emit(relax.op.nn.relu(emit(relax.op.reshape(y, (3, 5, 6)))))

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.add(emit(relax.op.matmul(x, W)), BIAS))))

    check((3, 5, 8), before, after)


def test_transposes_around_linear_layers_cancel():
    def before(emit, x):
        y = emit(relax.op.matmul(emit(relax.op.permute_dims(x, (1, 0, 2))), W))
        return emit(
            relax.op.nn.relu(emit(relax.op.permute_dims(emit(relax.op.add(BIAS, y)), (1, 0, 2))))
        )

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.add(BIAS, emit(relax.op.matmul(x, W))))))

    check((3, 5, 8), before, after)


def test_heads_are_joined_before_a_linear_layer():
    def before(emit, x):
        y = emit(relax.op.matmul(emit(relax.op.reshape(x, (15, 8))), W))
        return emit(relax.op.nn.relu(emit(relax.op.reshape(y, (3, 5, 6)))))

    def after(emit, x):
        return emit(
            relax.op.nn.relu(emit(relax.op.matmul(emit(relax.op.reshape(x, (3, 5, 8))), W)))
        )

    check((3, 5, 2, 4), before, after)


def test_softmax_of_flattened_scores():
    def before(emit, x):
        y = emit(relax.op.nn.softmax(emit(relax.op.reshape(x, (12, 5)))))
        return emit(relax.op.nn.relu(emit(relax.op.reshape(y, (2, 2, 3, 5)))))

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.nn.softmax(x))))

    check((2, 2, 3, 5), before, after)


GAMMA, BETA = (relax.const(np.arange(5) / divisor, "float32") for divisor in (5, 7))
ON_ROWS = {
    "softmax": lambda x, axis: relax.op.nn.softmax(x, axis),
    "layer_norm": lambda x, axis: relax.op.nn.layer_norm(
        x, GAMMA, BETA, [axis], epsilon=1e-3, scale=False
    ),
}


@pytest.mark.parametrize("operator", ON_ROWS.values(), ids=ON_ROWS)
@pytest.mark.parametrize("shape", [(5,), (12, 5), (4, 3, 5)])
def test_the_last_axis_stays_the_last(operator, shape):
    """The moved operator has other axes, so that the number of its last one changes."""
    flat = (1, 1, *shape) if len(shape) < 3 else (12, 5)

    def before(emit, x):
        y = emit(operator(emit(relax.op.reshape(x, flat)), len(flat) - 1))
        return emit(relax.op.nn.relu(y))

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.reshape(emit(operator(x, -1)), flat))))

    check(shape, before, after)


def test_chains_are_shortened():
    def before(emit, x):
        y = emit(relax.op.permute_dims(emit(relax.op.reshape(x, (3, 5, 2, 4))), (0, 2, 1, 3)))
        y = emit(relax.op.permute_dims(emit(relax.op.reshape(y, (6, 5, 4))), (0, 2, 1)))
        y = emit(relax.op.permute_dims(emit(relax.op.reshape(y, (3, 2, 4, 5))), (0, 3, 1, 2)))
        return emit(relax.op.nn.relu(emit(relax.op.reshape(y, (15, 8)))))

    def after(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.reshape(x, (15, 8)))))

    check((3, 5, 8), before, after)


def test_what_mixes_rows_stays():
    def body(emit, x):
        a = emit(
            relax.op.flatten(emit(relax.op.matmul(emit(relax.op.permute_dims(x, (0, 2, 1))), W)))
        )
        b = emit(
            relax.op.flatten(emit(relax.op.nn.softmax(emit(relax.op.reshape(x, (24, 8))), axis=0)))
        )
        return emit(relax.op.concat([a, b], axis=0))

    check((3, 8, 8), body, body)
