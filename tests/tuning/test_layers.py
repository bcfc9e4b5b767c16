"""Kernels that the tuner tries all compute the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization, QuantizedWeight
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.families import kernel_to_fields
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.devices import TOLERANCES
from tvm_sparse.tuning.layers import LayerSubject, build_layer_library
from tvm_sparse.tuning.ranking import kernel_candidates

CPU = profile("x86-64-v4")
CONV = Conv2d(1, 12, 9, 9, 10, (3, 3), padding=(1, 1, 1, 1), lanes_in=16, lanes_out=16)
HALF = replace(CONV, dtype=DType.FLOAT16)
DEPTHWISE = replace(CONV, out_channels=12, groups=12)
LAYERS = {
    "sparse_linear": (Layer(Linear(3, 32, 24, 40), 0.1), (24, 40)),
    "linear": (Layer(Linear(3, 32, 24, 40), 1.0), (24, 40)),
    "sparse_conv2d": (Layer(CONV, 0.1), (10, 12, 3, 3)),
    "conv2d": (Layer(CONV, 1.0), (10, 12, 3, 3)),
    "joined sparse_linear": (Layer(Linear(7, 8, 24, 40), 0.1), (24, 40)),
    "joined sparse_conv2d": (Layer(HALF, 0.1), (10, 12, 3, 3)),
    "depthwise_conv2d": (Layer(DEPTHWISE, 1.0), (12, 1, 3, 3)),
}


STEPS = Quantization(0.05, 100, 0, 255)
QUANTIZED = {
    "linear of integers": (Layer(Linear(3, 32, 24, 40), 0.2, True, 0.2), (24, 40)),
    "conv2d of integers": (Layer(CONV, 0.2, True, 0.2), (10, 12, 3, 3)),
}


@pytest.mark.parametrize("kind", [*LAYERS, *QUANTIZED])
def test_all_compute_the_same(kind, tmp_path):
    cpu, quantized = native(), None
    layer, shape = (LAYERS | QUANTIZED)[kind]
    rng = np.random.default_rng(0)
    weight = pruned(rng, shape, 0.1 if "sparse" in kind else 1.0)
    if layer.is_quantized:
        values = (rng.integers(-127, 128, shape) * (weight > 0)).astype("int8")
        scale = rng.uniform(0.5, 1, shape[0]).astype("float32") / 100
        quantized = QuantizedWeight(values, scale, STEPS)
        weight = values * scale.reshape(-1, *[1] * (len(shape) - 1))
    if layer.problem.dtype == DType.FLOAT16:
        if not cpu.has_half:
            pytest.skip("this CPU has no float16 arithmetic")
        cpu = replace(cpu, activations=DType.FLOAT16)
    kernel = LayerSubject.write(layer, weight, tmp_path, "native", cpu, quantized)
    arguments = kernel.arguments()
    x = tvm.runtime.tensor(np.load(arguments.path)["arr_0"])
    (common,) = arguments.common
    plans = [kernel_to_fields(c.tiling) for c in kernel_candidates(layer, cpu, 9.0)]
    expected = None
    if quantized is not None and dot_products(cpu) is not None:
        assert any("int8" in str(plan["kernel"]) for plan in plans)
    for plan in [plans[0], plans[len(plans) // 2], plans[-1]]:
        library = tmp_path / "kernel.so"
        # The tuner sends the arguments to another process.
        sent = json.loads(json.dumps(kernel.build(plan).arguments))
        build_layer_library(library, **sent)
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        actual = machine["main"](x).numpy()[..., :common]
        library.unlink()
        expected = actual if expected is None else expected
        digits = 1e-5 if layer.problem.dtype == DType.FLOAT32 else TOLERANCES[DType.FLOAT16]
        atol = digits * np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, atol=atol)
