from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.lower import lower_operators
from tvm_sparse.passes.lower.lower_operators import LowerOperators
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.models import dataflow

CONV = Conv2d(
    *(1, 8, 24, 14, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 8), lanes_in=16, lanes_out=16
)


@pytest.fixture
def count(monkeypatch):
    """Count the kernels that are emitted: ``count(name)`` returns a list with an entry for each."""

    def counted(name):
        emitted, kernel = [], lower_operators.KERNELS[name]
        kernels = lower_operators.KERNELS
        monkeypatch.setitem(kernels, name, lambda *a: (emitted.append(a), kernel(*a))[1])
        return emitted

    return counted


def test_kernels_that_differ_in_weights_are_emitted_once(count):
    emitted = count(panel.DEPTHWISE_CONV2D.name)
    rng = np.random.default_rng(0)

    def body(emit, x):
        for activation in ("", "", "relu"):
            weight = relax.const(rng.standard_normal((8, 1, 3, 3)).astype("float32"))
            convolved = panel.depthwise_conv2d(x, weight, CONV)
            x = emit(panel.with_epilogue(panel.of_layer(convolved, str(x)), activation=activation))
        return x

    after = LowerOperators(native())(dataflow(body, (24, 8, 16)))
    functions = [f for _, f in after.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    assert len(emitted) == len(functions) == 2


def test_kernels_that_differ_in_the_number_of_zeros_are_emitted_once(count):
    emitted = count(panel.SPARSE_LINEAR.name)
    rng = np.random.default_rng(0)
    weights = [np.where(rng.random((64, 64)) < share, 1, 0) for share in (0.1, 0.12)]

    def body(emit, x):
        for weight in weights:
            x = emit(relax.op.sin(emit(relax.op.matmul(x, relax.const(weight.astype("float32"))))))
        return x

    mod = pipeline.front(dataflow(body, (1, 64, 64)), native()).mod
    after = LowerOperators(native())(mod)
    layers = [
        binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if is_call_to(binding.value, panel.SPARSE_LINEAR.name)
    ]
    counts = {layer.args[-1].value.numpy().size for layer in layers}
    kernels = [gvar for gvar in after.get_global_vars() if "sparse_linear" in gvar.name_hint]
    assert len(layers) == len(counts) == 2
    assert len(emitted) == len(kernels) == 1
