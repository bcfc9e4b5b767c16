"""Transformers of any shape where a batch has fewer rows of panels than there are cores."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

import tvm_sparse
from tvm_sparse.testing.models import pruned

WIDTH, INNER = 192, 1536  # the inputs of the second layer exceed a K block


def weights():
    rng = np.random.default_rng(0)
    shapes = (WIDTH, INNER), (INNER, WIDTH), (WIDTH, 20)
    densities = 0.2, 0.2, 1.0
    scaled = zip(shapes, densities, strict=True)
    return [pruned(rng, s, d) / np.float32(np.sqrt(s[0] * d)) for s, d in scaled]


def feed_forward() -> tvm.IRModule:
    """Return ``layer_norm(x + relu(layer_norm(x) @ a) @ b) @ c`` of any batch and sequence."""
    builder, op = relax.BlockBuilder(), relax.op
    batch, sequence = (tirx.Var(name, "int64") for name in ("batch", "sequence"))
    x = relax.Var("x", relax.TensorType((batch, sequence, WIDTH), "float32"))
    ones, zeros = (relax.const(np.full(WIDTH, value, "float32")) for value in (1, 0))
    a, b, c = map(relax.const, weights())
    with builder.function("main", [x]):
        with builder.dataflow():
            emit = builder.emit
            normal = emit(op.nn.layer_norm(x, ones, zeros, axes=[-1], epsilon=1e-5))
            wide = emit(op.nn.relu(emit(op.matmul(normal, a))))
            y = emit(op.add(emit(op.matmul(wide, b)), normal))
            y = emit(op.nn.layer_norm(y, ones, zeros, axes=[-1], epsilon=1e-5))
            out = builder.emit_output(op.matmul(y, c))
        builder.emit_func_output(out)
    return builder.get()


def expected(x):
    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    a, b, c = weights()
    normal = norm(x.astype("float64"))
    return norm(np.maximum(normal @ a, 0) @ b + normal) @ c


@pytest.mark.parametrize("columns", ["off", 4])
@pytest.mark.parametrize("hints", [{"sequence": 128}, {"sequence": 8}])
def test_any_number_of_cores_computes_the_same(columns, hints):
    engines = [
        tvm_sparse.compile(feed_forward(), columns=columns, hints=hints, threads=threads)
        for threads in (1, 2, 4)
    ]
    regions = [region["operators"] for region in engines[1].report.regions]
    assert columns == "off" or max(map(len, regions)) > 1
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 8), (1, 17), (1, 40), (2, 5), (3, 16), (1, 100), (5, 33)):
        x = rng.standard_normal((*shape, WIDTH)).astype("float32")
        results = [next(iter(engine.run([x]).values())) for engine in engines]
        np.testing.assert_allclose(results[0], expected(x), rtol=1e-3, atol=1e-4)
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])
