"""LSTM, GRU and RNN against ONNX Runtime, over their attributes and inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import PROFILES, native
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes.pipeline import pipeline
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import pruned

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATIONS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
SPARSE_TARGETS = {
    bits: pytest.param(
        target,
        marks=pytest.mark.skipif(
            native().architecture != "x86_64" or native().vector_bits < bits,
            reason=f"needs an x86 processor with vectors of {bits} bits",
        ),
    )
    for bits, target in ((512, "native"), (256, "haswell"))
}
INPUTS = ("x", "W", "R", "B", "lengths", "h", "c", "P")


def arrays(op, directions, steps, batch, width, hidden, density=1.0):
    rng = np.random.default_rng(steps * 100 + hidden)
    gates = GATES[op]

    def normal(*shape, scale=0.5):
        return (rng.standard_normal(shape) * scale).astype("float32")

    return {
        "x": normal(steps, batch, width, scale=1.0),
        "W": pruned(rng, (directions, gates * hidden, width), density) / 2,
        "R": pruned(rng, (directions, gates * hidden, hidden), density) / (density * hidden) ** 0.5,
        "B": normal(directions, 2 * gates * hidden),
        "lengths": rng.integers(1, steps + 1, batch).astype("int32"),
        "h": normal(directions, batch, hidden),
        "c": normal(directions, batch, hidden),
        "P": normal(directions, 3 * hidden),
    }


def batch_first(name: str, value: np.ndarray) -> np.ndarray:
    if name == "y":
        return value.transpose(2, 0, 1, 3)
    return value.transpose(1, 0, 2) if name in ("x", "h", "c", "y_h", "y_c") else value


def model_of(
    op: str,
    values: dict[str, np.ndarray],
    variable: tuple[str, ...],
    outputs: tuple[str, ...],
    **attributes: Any,
) -> onnx.ModelProto:
    """One node whose inputs are `values`; those in `variable` are inputs of the model."""
    names = [name if name in values else "" for name in INPUTS]
    node = helper.make_node(op, names[: 8 if op == "LSTM" else 6], outputs, "cell", **attributes)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape
        )
        for name in values
        if name in variable
    ]
    graph = helper.make_graph(
        [node],
        "recurrent",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name],
        [numpy_helper.from_array(v, k) for k, v in values.items() if k not in variable],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], path, target: str = "native"
) -> list[np.ndarray]:
    onnx.save(model, path)
    imported = import_onnx(path)
    cpu = native() if target == "native" else replace(PROFILES[target], cores=native().cores)
    library = build(imported.mod, cpu.to_target(), pipeline())
    vm = tvm.relax.VirtualMachine(library, tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(feed[spec.name]) for spec in imported.inputs))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    return [value.numpy() for value in results]


def check(op, values, variable, outputs, path, tolerance=2e-5, target="native", **attributes):
    """Compare with ONNX Runtime, which knows only layout 0."""
    in_layout = attributes.pop("layout", 0)
    reference = model_of(op, values, variable, outputs, **attributes)
    session = onnxruntime.InferenceSession(
        reference.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {name: values[name] for name in values if name in variable}
    want = session.run(None, feed)
    if in_layout:
        attributes["layout"] = 1
        values = {name: batch_first(name, value) for name, value in values.items()}
        feed = {name: np.ascontiguousarray(values[name]) for name in feed}
        named = [name for name in outputs if name]
        want = [batch_first(name, value) for name, value in zip(named, want, strict=True)]
    got = run(model_of(op, values, variable, outputs, **attributes), feed, path, target)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@st.composite
def nodes(draw):
    op = draw(st.sampled_from(sorted(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    hidden = draw(st.sampled_from([1, 3, 8, 20, 33, 48]))
    attributes = {"hidden_size": hidden, "direction": direction}
    attributes["layout"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.3, 2.0]))
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if op == "LSTM":
        attributes["input_forget"] = draw(st.integers(0, 1))
    optional = ("B", "lengths", "h", "c", "P") if op == "LSTM" else ("B", "lengths", "h")
    used = {name for name in optional if draw(st.booleans())}
    possible = ("y", "y_h", "y_c") if op == "LSTM" else ("y", "y_h")
    outputs = tuple(name if draw(st.booleans()) else "" for name in possible[:-1])
    if not any(outputs) or draw(st.booleans()):
        outputs = (*outputs, possible[-1])
    variable = {name for name in ("W", "R", "B", "h", "c") if draw(st.integers(0, 3)) == 0}
    steps, batch, width = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 20))
    values = arrays(op, 2 if direction == "bidirectional" else 1, steps, batch, width, hidden)
    values = {k: v for k, v in values.items() if k in {"x", "W", "R", *used}}
    return op, values, ("x", "lengths", *sorted(variable)), outputs, attributes


@settings(max_examples=25, deadline=None)
@given(node=nodes())
def test_against_onnx_runtime(node, tmp_path_factory):
    op, values, variable, outputs, attributes = node
    check(op, values, variable, outputs, tmp_path_factory.mktemp("m") / "m.onnx", **attributes)


FUNCTIONS = {
    "Affine": (0.7, 0.1),
    "Elu": (0.8, None),
    "HardSigmoid": (0.3, 0.4),
    "LeakyRelu": (0.05, None),
    "Relu": (None, None),
    "ScaledTanh": (0.9, 0.8),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (0.2, None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations(name, tmp_path):
    op = list(GATES)[list(FUNCTIONS).index(name) % len(GATES)]
    alpha, beta = FUNCTIONS[name]
    names = [name, *ACTIVATIONS[op][1:]]
    attributes = {"hidden_size": 20, "activations": names}
    if alpha is not None:
        attributes["activation_alpha"] = [alpha]
    if beta is not None:
        attributes["activation_beta"] = [beta]
    values = arrays(op, 1, 3, 2, 5, 20)
    values = {k: v for k, v in values.items() if k in ("x", "W", "R", "B")}
    check(op, values, ("x",), ("y",), tmp_path / "m.onnx", **attributes)


@pytest.mark.parametrize("op", GATES)
def test_directions_with_different_activations(op, tmp_path):
    names = [*ACTIVATIONS[op], *(["HardSigmoid"] * len(ACTIVATIONS[op]))]
    alphas = [0.3 - 0.05 * i for i in range(len(ACTIVATIONS[op]))]
    outputs = ("y", "y_h", "y_c") if op == "LSTM" else ("y", "y_h")
    values = arrays(op, 2, 4, 3, 6, 20)
    if op != "LSTM":
        del values["c"], values["P"]
    attributes = {"activations": names, "activation_alpha": alphas, "direction": "bidirectional"}
    variable = ("x", "lengths")
    check(op, values, variable, outputs, tmp_path / "m.onnx", hidden_size=20, **attributes)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("op", GATES)
def test_large_layers_share_steps_between_threads(op, batch, tmp_path):
    values = arrays(op, 1, 3, batch, 16, 520)
    values = {k: v for k, v in values.items() if k in ("x", "W", "R", "B", "h")}
    check(op, values, ("x", "h"), ("y", "y_h"), tmp_path / "m.onnx", hidden_size=520)


@pytest.mark.parametrize(
    ("op", "linear_before_reset"), [("LSTM", 0), ("GRU", 0), ("GRU", 1), ("RNN", 0)]
)
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("target", SPARSE_TARGETS.values())
def test_pruned_recurrent_weights_are_packed_sparse(
    op, linear_before_reset, batch, target, tmp_path
):
    attributes = {"linear_before_reset": 1} if linear_before_reset else {}
    values = arrays(op, 2, 8, batch, 16, 136, density=0.1)
    unused = () if op == "LSTM" else ("c", "P")
    values = {name: value for name, value in values.items() if name not in unused}
    outputs, variable = ("y", "y_h"), ("x", "lengths", "h")
    attributes |= {"direction": "bidirectional", "hidden_size": 136, "target": target}
    check(op, values, variable, outputs, tmp_path / "m.onnx", **attributes)
    *_, layer = analyze(tmp_path / "m.onnx", target=target).layers
    assert (layer.name, layer.kernel) == ("cell", "sparse_recurrent")


@pytest.mark.parametrize("target", SPARSE_TARGETS.values())
@pytest.mark.parametrize(("batch", "hidden"), [(1, 1040), (8, 136)])
def test_pruned_layers_are_shared_between_threads(batch, hidden, target, tmp_path):
    """A large layer shares its steps, a smaller one its sequences."""
    values = arrays("LSTM", 1, 3, batch, 16, hidden, density=0.1)
    values = {k: v for k, v in values.items() if k in ("x", "W", "R", "B", "h", "lengths")}
    attributes = {"hidden_size": hidden, "target": target}
    variable, outputs = ("x", "h", "lengths"), ("y", "y_h")
    check("LSTM", values, variable, outputs, tmp_path / "m.onnx", **attributes)


def test_states_carried_between_calls_continue_a_sequence(tmp_path):
    values = arrays("LSTM", 1, 6, 2, 8, 24)
    del values["lengths"], values["P"]
    values["h"], values["c"] = (np.zeros_like(values[name]) for name in "hc")
    outputs, variable = ("y", "y_h", "y_c"), ("x", "h", "c")
    whole = model_of("LSTM", values, variable, outputs, hidden_size=24)
    feed = {name: values[name] for name in variable}
    want, *last = run(whole, feed, tmp_path / "whole.onnx")

    part = {**values, "x": values["x"][:2]}
    model = model_of("LSTM", part, variable, outputs, hidden_size=24)
    states, parts = {"h": values["h"], "c": values["c"]}, []
    for first in range(0, 6, 2):
        feed = {"x": values["x"][first : first + 2], **states}
        y, *new = run(model, feed, tmp_path / "part.onnx")
        parts.append(y)
        states = dict(zip("hc", new, strict=True))
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=1e-6, atol=1e-6)
    for name, value in zip("hc", last, strict=True):
        np.testing.assert_allclose(states[name], value, rtol=1e-6, atol=1e-6)


def test_the_product_with_the_inputs_is_a_sparse_linear_layer(tmp_path):
    values = arrays("LSTM", 2, 32, 1, 256, 64, density=0.05)
    values = {k: v for k, v in values.items() if k in ("x", "W", "R", "B")}
    model = model_of("LSTM", values, ("x",), ("y",), hidden_size=64, direction="bidirectional")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    layer, *_ = analyze(path).layers
    assert (layer.name, layer.kernel) == ("cell", "sparse_linear")
    check("LSTM", values, ("x",), ("y",), path, hidden_size=64, direction="bidirectional")


@pytest.mark.parametrize(
    ("target", "kernel"),
    [("haswell", "sparse_recurrent"), ("rpi5", "sparse_recurrent"), ("riscv64", "recurrent")],
)
def test_a_processor_without_the_sparse_kernel_says_so(target, kernel, tmp_path):
    values = arrays("GRU", 1, 20, 1, 64, 160, density=0.1)
    values = {k: v for k, v in values.items() if k in ("x", "W", "R", "B")}
    onnx.save(model_of("GRU", values, ("x",), ("y",), hidden_size=160), tmp_path / "m.onnx")
    *_, layer = analyze(tmp_path / "m.onnx", target=target).layers
    assert (layer.name, layer.kernel) == ("cell", kernel)
    assert layer.is_lost is (kernel == "recurrent")
    assert not layer.is_lost or "AVX-512, AVX2 or NEON" in layer.reason


def test_float64_is_refused(tmp_path):
    values = arrays("RNN", 1, 2, 1, 4, 8)
    values = {k: values[k].astype("float64") for k in ("x", "W", "R")}
    onnx.save(model_of("RNN", values, ("x",), ("y",), hidden_size=8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"node 'cell'.*float64"):
        import_onnx(tmp_path / "m.onnx")
