"""Reshapes that follow one another become one, and no kernel copies what is only reshaped."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.lower.join_reshapes import JoinReshapes
from tvm_sparse.testing.models import dataflow, run

OPS = relax.op


def test_several_reshapes_become_one():
    def before(emit, x):
        lines = emit(OPS.expand_dims(emit(OPS.reshape(x, (6, 4))), 0))
        return emit(OPS.nn.relu(emit(OPS.reshape(lines, (2, 12)))))

    def after(emit, x):
        return emit(OPS.nn.relu(emit(OPS.reshape(x, (2, 12)))))

    mod = JoinReshapes()(dataflow(before, (2, 3, 4)))
    tvm.ir.assert_structural_equal(mod, dataflow(after, (2, 3, 4)))


def test_what_is_between_reshapes_stays():
    def body(emit, x):
        turned = emit(OPS.permute_dims(emit(OPS.reshape(x, (6, 4)))))
        return emit(OPS.nn.relu(emit(OPS.reshape(turned, (2, 12)))))

    mod = dataflow(body, (2, 3, 4))
    tvm.ir.assert_structural_equal(JoinReshapes()(mod), mod)


@pytest.mark.parametrize("shape", [(2, 12), (24,)])
def test_nothing_is_copied(shape):
    def body(emit, x):
        y = emit(OPS.nn.relu(x))
        z = emit(OPS.reshape(emit(OPS.reshape(y, (4, 6))), shape))
        return emit(OPS.exp(emit(OPS.nn.softmax(z, -1))))

    mod = tvm.transform.Sequential(pipeline.lower(native()))(dataflow(body, (2, 3, 4)))
    names = [gvar.name_hint for gvar in mod.get_global_vars()]
    assert not [name for name in names if name.removeprefix("fused_").startswith("reshape")]
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    executable = build(relax.get_pipeline("default_build")(mod), native().to_target())
    powers = np.exp(np.maximum(x, 0).reshape(shape))
    want = np.exp(powers / powers.sum(-1, keepdims=True))
    np.testing.assert_allclose(run(executable, x), want, rtol=1e-5)
