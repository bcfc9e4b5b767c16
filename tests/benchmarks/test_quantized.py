"""Small networks in the forms of six exporters are imported, and are what was quantized."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest

from tvm_sparse.frontends.load import import_module
from tvm_sparse.testing.models import onnxruntime_outputs, operators_of

DIALECTS = importlib.import_module("quantized_dialects").DIALECTS
MODELS = importlib.import_module("quantized_models")
write_network = MODELS.write_network

MARKS = {
    "ORT QDQ": {"QuantizeLinear", "DequantizeLinear"},
    "ORT QOperator": {"QuantizeLinear"},
    "ORT dynamic": {"DynamicQuantizeLinear"},
    "deepsparse": {"Cast"},
    "nncf": {"QuantizeLinear", "DequantizeLinear"},
    "torch": {"QuantizeLinear", "DequantizeLinear"},
}


def live(path, shape):
    """Return outputs of a network for two inputs, one twice as large as the other."""
    rng = np.random.default_rng(1)
    return [
        onnxruntime_outputs(path, {"x": size * rng.standard_normal(shape).astype("float32")})["y"]
        for size in (1, 2)
    ]


@pytest.mark.parametrize("family", MODELS.FAMILIES)
def test_outputs_depend_on_inputs(family, tmp_path):
    first, second = live(tmp_path / "m.onnx", write_network(family, tmp_path / "m.onnx"))
    assert np.std(first - second) > 0.05 * np.std(first) > 1e-3


@pytest.mark.parametrize("family", ["MiniLM", "MobileNet", "audio"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_node_is_imported(dialect, family, tmp_path):
    source, path = tmp_path / "m.onnx", tmp_path / "q.onnx"
    shape = write_network(family, source)
    samples = [np.random.default_rng(i).standard_normal(shape).astype("f4") for i in range(3)]
    DIALECTS[dialect](source, path, samples)
    assert {node.op_type for node in onnx.load(path).graph.node} >= MARKS[dialect]
    want, got = live(source, shape)[0], live(path, shape)[0]
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.2
    imported = import_module(path, no_fallback="not in this test")
    assert "dequantize" in operators_of(imported.mod)
    assert not imported.fallbacks
