"""What `precision` makes of a model: in its report, in its library and in its outputs."""

import dataclasses

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu import instruction_sets
from tvm_sparse.cpu.profile import native
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import InputError, LibraryError, TargetError
from tvm_sparse.layer_report import LayersOf
from tvm_sparse.report.analysis import analyze
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.library import read_info
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx
from tvm_sparse.tuning.tune import tune

here = pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Three linear layers; the values behind the first one are too large for float16."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": pruned(rng, (256, 256), 0.05) for i in range(3)}
    weights["w0"] *= 1e6
    weights["w1"] *= 1e-6
    nodes = [
        make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        make_node("Relu", ["a"], ["b"], name="relu"),
        make_node("MatMul", ["b", "w1"], ["c"], name="second"),
        make_node("Tanh", ["c"], ["d"], name="tanh"),
        make_node("MatMul", ["d", "w2"], ["y"], name="third"),
    ]
    path = tmp_path_factory.mktemp("model") / "layers.onnx"
    return write_onnx(path, nodes, {"x": [96, 256]}, ["y"], weights)


@here
def test_float16_is_right_and_keeps_large_values_in_float32(layers, tmp_path):
    x = np.random.default_rng(1).standard_normal((96, 256)).astype(np.float32)
    engine = tvm_sparse.compile(layers, precision="float16", verify=True, calibration={"x": x})
    found = {layer.name: layer for layer in engine.report.layers}
    precisions = {name: layer.precision for name, layer in found.items()}
    assert precisions == {"first": "float32", "second": "float32", "third": "float16"}
    assert "in float32: values reach" in found["first"].reason
    assert "; float16, 2 in float32: first, second" in str(engine.report)
    expected, y = onnxruntime_outputs(layers, {"x": x})["y"], engine.run([x])["y"]
    assert y.dtype == np.float32 and np.abs(y - expected).max() < 1e-2 * np.abs(expected).max()
    engine.save(tmp_path / "a.so")
    assert read_info(tmp_path / "a.so").precision is DType.FLOAT16
    assert tvm_sparse.load(tmp_path / "a.so").run([x])["y"].tobytes() == y.tobytes()


@here
def test_auto_says_what_it_chose(layers):
    text = str(tvm_sparse.compile(layers, precision="auto").report)
    assert "float16 (auto: native has float16 arithmetic)" in text
    assert analyze(layers, precision="auto").to_json()["precision"] == "float16"


def test_auto_is_float32_on_older_processors(layers):
    engine = tvm_sparse.compile(layers, target="x86-64-v4", precision="auto")
    assert engine.info.precision is DType.FLOAT32
    assert "float32 (auto: x86-64-v4 has no float16 arithmetic)" in str(engine.report)
    assert analyze(layers, target="rpi4", precision="auto").precision.startswith("float32 (auto")


def test_float16_can_be_compiled_for_another_processor(layers):
    engine = tvm_sparse.compile(layers, target="x86-64-v4+fp16", precision="float16")
    assert "avx512fp16" in engine.info.instruction_sets
    assert "amx-tile" not in engine.info.instruction_sets
    engine = tvm_sparse.compile(layers, target="rpi5", precision="auto")
    assert (engine.info.machine, engine.info.precision) == ("aarch64", DType.FLOAT16)


def test_float16_is_refused_where_it_would_be_emulated(layers):
    with pytest.raises(TargetError, match=r"x86-64-v4 .* has no float16 arithmetic"):
        tvm_sparse.compile(layers, target="x86-64-v4", precision="float16")
    with pytest.raises(InputError, match="precision must be one of"):
        analyze(layers, precision="half")


@here
def test_a_library_is_refused_where_an_instruction_set_is_missing(layers, tmp_path, monkeypatch):
    engine = tvm_sparse.compile(layers, precision="float16")
    engine.save(tmp_path / "a.so")
    flags = instruction_sets.cpu_flags() - {"avx512_fp16", "asimdhp"}
    monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: flags)
    instruction_sets._here.cache_clear()
    try:
        with pytest.raises(LibraryError, match=r"lacks (avx512fp16|fullfp16)"):
            tvm_sparse.load(tmp_path / "a.so")
    finally:
        monkeypatch.undo()
        instruction_sets._here.cache_clear()


def test_libraries_of_float32_say_nothing_of_it():
    info = LibraryInfo((), (), (), "znver3", "x86_64", ("avx2",))
    assert "precision" not in info.to_json()
    assert LibraryInfo.from_json(info.to_json()).precision is DType.FLOAT32
    half = dataclasses.replace(info, precision=DType.FLOAT16)
    assert LibraryInfo.from_json(half.to_json()) == half


def test_layers_of_a_module_are_known_by_their_nodes():
    layers = LayersOf(["/encoder/layer.0/MatMul", "conv"])
    assert "encoder_layer_0_MatMul" in layers and "encoder_layer_0_MatMul1" in layers
    assert "encoder_layer_1_MatMul" not in layers and "conv_bias" not in layers
    assert len(layers) == 2


@here
def test_the_tuner_keeps_precisions_apart(layers, tmp_path):
    records = tmp_path / "records.jsonl"
    tuned = tune(layers, threads=1, trials_per_region=2, records=records, precision="float16")
    assert tuned and all(part.outcome.failures == () for part in tuned)
    assert all(part.outcome.task.key.target.endswith(" float16") for part in tuned)
    whole = tvm_sparse.compile(layers, threads=1, records=records)
    assert not whole.report.records.layers
