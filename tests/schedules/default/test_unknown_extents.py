"""The default schedule of loops whose extents are known at run time only."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.testing.models import dataflow

N, S = (tirx.Var(name, "int64") for name in "ns")
SIZES = ((1, 1), (3, 17), (2, 64), (5, 131))


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


CASES = {
    "elementwise": (
        lambda x, y: relax.op.add(relax.op.exp(x), y),
        lambda x, y: np.exp(x) + y,
        [(N, S, 48), (N, S, 48)],
    ),
    "short rows": (relax.op.add, np.add, [(N, S, 20), (20,)]),
    "only unknown": (relax.op.exp, np.exp, [(S,)]),
    "softmax": (lambda x: relax.op.nn.softmax(x, -1), softmax, [(N, 3, S)]),
    "product": (relax.op.matmul, np.matmul, [(N, S, 24), (N, 24, 40)]),
    "scores": (relax.op.matmul, np.matmul, [(N, S, 24), (N, 24, S)]),
    "mixed": (relax.op.matmul, np.matmul, [(N, S, S), (N, S, 24)]),
    "mean of rows": (lambda x: relax.op.mean(x, [2]), lambda x: x.mean(2), [(N, S, 33)]),
    "mean over rows": (lambda x: relax.op.mean(x, [1]), lambda x: x.mean(1), [(N, S, 33)]),
    "transpose": (
        lambda x: relax.op.permute_dims(x, [0, 2, 1]),
        lambda x: x.transpose(0, 2, 1),
        [(N, S, 16)],
    ),
    "concat": (
        lambda x, y: relax.op.concat([x, y], 1),
        lambda x, y: np.concatenate([x, y], 1),
        [(N, S, 8), (N, 3, 8)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_parallel_and_right(name):
    body, want, shapes = CASES[name]
    mod = dataflow(lambda emit, *xs: emit(body(*xs)), *shapes)
    target = native().to_target()
    with target:
        lowered = tvm.transform.Sequential(pipeline.lower(native()))(mod)
    functions = [f for _, f in lowered.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert all("T.parallel" in func.script() for func in functions)
    compiled = build(mod, target, pipeline.pipeline())
    main = relax.VirtualMachine(compiled, tvm.cpu(), memory_cfg="naive")["main"]
    rng = np.random.default_rng(0)
    for n, s in SIZES:
        sizes = {N: n, S: s}
        arrays = [
            rng.standard_normal([sizes.get(d, d) for d in shape]).astype("float32")
            for shape in shapes
        ]
        got = main(*map(tvm.runtime.tensor, arrays)).numpy()
        np.testing.assert_allclose(got, want(*arrays), rtol=1e-4, atol=1e-4)


def test_indices_are_divided_as_natural_numbers():
    """TVM would select by the sign of each divisor, and look into the selections for minutes."""
    body, _, shapes = CASES["elementwise"]
    mod = dataflow(lambda emit, *xs: emit(body(*xs)), *shapes)
    with native().to_target():
        lowered = tvm.transform.Sequential(pipeline.lower(native()))(mod)
    found = [f.script() for f in lowered.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert any("T.Div(" in text or "T.truncmod(" in text for text in found)
    assert not any(f"{op} s" in text for text in found for op in ("//", "%"))
