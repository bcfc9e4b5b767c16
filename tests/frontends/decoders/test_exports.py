"""Decoders with Attention of the standard, and with attention written out, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tvm_sparse
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.decoder import DecoderFile
from tvm_sparse.frontends.decoders.rewriting import table_rows
from tvm_sparse.testing.tiny_exports import TinyExport
from tvm_sparse.verification.decoder import OnnxDecoder

FORMS = {
    "standard": TinyExport("standard"),
    "standard, window, softcap": TinyExport("standard", window=5, softcap=2.0),
    "rows": TinyExport("rows", heads=6, kv_heads=3),
    "scatter": TinyExport("scatter"),
    "joined": TinyExport("joined", window=6, is_bool=True),
    "written out": TinyExport("written out"),
    "written out, tied": TinyExport("written out", tied=True, is_limited=True),
    "written out, a table of masks": TinyExport("written out", room=256),
    "written out, counted positions": TinyExport("written out", counts=True),
    "written out, sinks": TinyExport("written out", sinks=True, window=7),
    "written out, window": TinyExport("written out", window=5, kv_heads=4),
    "written out, bool, softcap": TinyExport("written out", is_bool=True, softcap=2.0, kv_heads=1),
    "standard, slopes": TinyExport("standard", slopes=True),
    "written out, slopes": TinyExport("written out", slopes=True, kv_heads=4),
    "written out, slopes, window, bool": TinyExport(
        "written out", slopes=True, window=6, is_bool=True
    ),
    "written out, experts": TinyExport("written out", experts=4, layers=1),
}


@pytest.mark.parametrize("name", FORMS)
def test_twenty_tokens(name, tmp_path):
    """A prompt of 17 tokens and 20 tokens that ONNX Runtime picks; then the caches."""
    path = FORMS[name].write(tmp_path / "tiny.onnx")
    engine = tvm_sparse.compile(path, threads=2)
    session, reference = engine.session(tokens=64), OnnxDecoder(path)
    kernels = [layer.kernel for layer in engine.report.layers]
    assert kernels.count("expert_linear") == 3 * bool(FORMS[name].experts)
    ids = [(7 * i + 3) % 50 for i in range(17)]
    for _ in range(20):
        expected, found = reference.step(ids), session.step(ids)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        ids = [int(expected[-1].argmax())]
        assert ids == [int(found[-1].argmax())]
    for i in range(FORMS[name].layers):
        for part, found in zip(("key", "value"), session.cache(i), strict=True):
            expected = reference.past[f"past_key_values.{i}.{part}"][:, :, : reference.position]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_session_is_as_long_as_a_table_of_masks(tmp_path):
    path = TinyExport("written out", room=256, layers=1).write(tmp_path / "tiny.onnx")
    assert DecoderFile.read(path).decoder.limit == 256


def test_other_uses_of_the_past(tmp_path):
    path = TinyExport("written out", reads_past=True).write(tmp_path / "tiny.onnx")
    with pytest.raises(ModelError, match="depends on the number of past tokens"):
        tvm_sparse.compile(path, threads=1)


@pytest.mark.parametrize("offset", [0, 2])
def test_rows_of_a_table_of_positions(offset):
    """OPT reads its table two rows behind the position."""
    nodes = [
        helper.make_node("Cast", ["tvm_sparse_row"], ["position_ids"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["position_ids", "offset"], ["shifted"]),
        helper.make_node("Unsqueeze", ["shifted", "axis"], ["wide"]),
        helper.make_node("Gather", ["table", "wide"], ["embedded"]),
    ]
    weights = {"offset": np.array(offset), "axis": np.array([0]), "table": np.zeros((20, 4))}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "positions", [], [], tensors)
    assert table_rows(helper.make_model(graph)) == 20 - offset
