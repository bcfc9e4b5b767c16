"""Decoders as the model builder of onnxruntime-genai writes them, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.cli.main import main
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.tiny_decoders import TinyDecoder
from tvm_sparse.verification.decoder import OnnxDecoder

FORMS = {
    "packed": TinyDecoder(),
    "separate": TinyDecoder(packed=False, heads=6, kv_heads=3),
    "rotated before": TinyDecoder(packed=False, own_rotation=True),
    "interleaved": TinyDecoder(interleaved=1, kv_heads=4),
    "window": TinyDecoder(window=6, kv_heads=1),
    "softcap": TinyDecoder(softcap=1.5),
    "4 bits": TinyDecoder(bits=4),
    "channels with a name": TinyDecoder(names_channels=True, packed=False, own_rotation=True),
    "4 bits, channels with a name": TinyDecoder(names_channels=True, bits=4),
    "cache of a window": TinyDecoder(names_channels=True, window=6, window_cache=True),
    "sinks": TinyDecoder(sinks=True, kv_heads=1),
    "tables of short sequences": TinyDecoder(short=30),
}


@pytest.mark.parametrize("name", FORMS)
def test_twenty_tokens(name, tmp_path):
    """A prompt and 20 tokens that ONNX Runtime picks; then the caches."""
    path = FORMS[name].write(tmp_path / "tiny.onnx")
    session, reference = tvm_sparse.compile(path, threads=2).session(tokens=24), OnnxDecoder(path)
    # Kernels of codes round activations to 16 bits, and caches have 16 bits then.
    off = 5e-3 if FORMS[name].bits else 2e-5
    ids = [3, 1, 4, 1, 5]
    for _ in range(20):
        expected, found = reference.step(ids), session.step(ids)
        np.testing.assert_allclose(found, expected, atol=off)
        ids = [int(expected[-1].argmax())]
        assert ids == [int(found[-1].argmax())]
    for i in range(2):
        for part, found in zip(("key", "value"), session.cache(i), strict=True):
            expected = reference.past[f"past_key_values.{i}.{part}"]
            # A cache of a window holds the last tokens.
            np.testing.assert_allclose(found[:, :, -expected.shape[2] :], expected, atol=off)


def test_analysis_shows_a_step(tmp_path):
    path = TinyDecoder(layers=1, bits=4).write(tmp_path / "tiny.onnx")
    names = [layer.name for layer in analyze(path, threads=2).layers]
    assert names == ["/embedded", "/qkv0", "/o0", "/gate0", "/up0", "/down0", "/logits"]


def test_measuring_is_for_inferences(tmp_path, capsys):
    path = TinyDecoder(layers=1).write(tmp_path / "tiny.onnx")
    for verb in ("benchmark", "tune"):
        assert main([verb, str(path)]) == 2
        assert "`tvm-sparse generate` measures tokens a second" in capsys.readouterr().err


def changed(path, change):
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return path


def attention(graph):
    return next(node for node in graph.node if node.op_type == "GroupQueryAttention")


def with_attribute(graph):
    attention(graph).attribute.append(onnx.helper.make_attribute("smooth_softmax", 1))


def with_bias(graph):
    attention(graph).input.extend(["", "cos"])


def with_computed_tables(graph):
    graph.node.insert(0, onnx.helper.make_node("Identity", ["cos"], ["computed"], name="i"))
    attention(graph).input[7] = "computed"


def with_two_directions(graph):
    attention(graph).attribute.append(onnx.helper.make_attribute("causal", 0))


def with_counts(graph):
    attention(graph).input.extend([""] * 7 + ["seqlens_k"])


def with_nameless_channels(graph):
    graph.input[2].type.tensor_type.shape.dim[3].dim_param = "channels"
    node = attention(graph)
    relu = onnx.helper.make_node("Relu", [node.input[0]], ["unknown"], name="relu")
    node.input[0] = "unknown"
    graph.node.insert(list(graph.node).index(node), relu)


def with_state(graph):
    state = onnx.helper.make_tensor_value_info("past.0.conv", onnx.TensorProto.FLOAT, [1, 32])
    graph.input.append(state)
    (place,) = (i for i, node in enumerate(graph.node) if "embedded" in node.output)
    graph.node[place].output[0] = "rows"
    add = onnx.helper.make_node("Add", ["rows", "past.0.conv"], ["embedded"])
    graph.node.insert(place + 1, add)


def with_embeddings(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def with_strange_node(graph):
    graph.node.append(onnx.helper.make_node("Unknown", ["logits"], ["strange"], name="strange"))
    graph.node[-2].output[0] = "logits_0"
    graph.node[-1].input[0] = "logits_0"
    graph.node[-1].output[0] = "logits"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_attribute, "'smooth_softmax' .* is not supported"),
        (with_bias, "'attention_bias' is not supported"),
        (with_computed_tables, "tables of cosines and sines are computed"),
        (with_two_directions, r"'causal' \(0\) is not supported"),
        (with_counts, "'query_seqlens' is not supported"),
        (with_nameless_channels, "with the numbers of heads and channels"),
        (with_state, "'past.0.conv' is a state other than keys and values"),
        (with_embeddings, "must have an input 'input_ids'"),
        (with_strange_node, r"'strange' \(Unknown\) cannot be compiled"),
    ],
)
def test_refusals(change, message, tmp_path):
    path = changed(TinyDecoder().write(tmp_path / "tiny.onnx"), change)
    with pytest.raises(ModelError, match=message):
        tvm_sparse.compile(path, threads=1)


def test_tables_of_long_sequences(tmp_path):
    engine = tvm_sparse.compile(TinyDecoder(short=30).write(tmp_path / "tiny.onnx"), threads=1)
    with pytest.raises(InputError, match="tables for sequences of up to 30"):
        engine.session(tokens=31)


def test_numbers_and_tables_in_another_file(tmp_path):
    path = TinyDecoder(short=30).write(tmp_path / "tiny.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="tiny.data", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    with pytest.raises(InputError, match="tables for sequences of up to 30"):
        tvm_sparse.compile(path, threads=1).session(tokens=31)


def test_caches_of_half_precision(tmp_path):
    path = TinyDecoder(layers=1).write(tmp_path / "tiny.onnx")
    engine = tvm_sparse.compile(path, threads=1, cache="float16", verify=True)
    session, reference = engine.session(), OnnxDecoder(path)
    ids = list(range(20))
    np.testing.assert_allclose(session.step(ids), reference.step(ids), atol=5e-3)
    assert session.cache(0)[0].dtype == "float16"


def test_caches_of_bytes(tmp_path):
    """Elements are off by up to a 254th of the largest of their head; `cache` returns floats."""
    path = TinyDecoder(layers=2).write(tmp_path / "tiny.onnx")
    engine = tvm_sparse.compile(path, threads=1, cache="int8", verify=True)
    exact = tvm_sparse.compile(path, threads=1, cache="float32").session()
    session, reference = engine.session(), OnnxDecoder(path)
    ids = list(range(20))
    expected = reference.step(ids)
    assert 0 < np.abs(session.step(ids) - expected).max() < 3e-2 * np.abs(expected).max()
    exact.step(ids)
    for found, wanted in zip(session.cache(0), exact.cache(0), strict=True):
        assert found.dtype == "float32"
        step = np.abs(wanted).max(-1, keepdims=True) / 127
        assert (np.abs(found - wanted) <= 0.51 * step).all()
    before = session.step([3, 4])
    session.rewind(2)
    np.testing.assert_array_equal(session.step([3, 4]), before)


def test_options(tmp_path):
    path = TinyDecoder().write(tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match="one of 'auto', 'float32', 'float16', 'int8'"):
        tvm_sparse.compile(path, threads=1, cache="int4")
    with pytest.raises(InputError, match="hints= is not for decoders"):
        tvm_sparse.compile(path, threads=1, hints={"sequence_length": 4})
