"""Decoders are verified by the logits of some tokens."""

import onnx
import pytest

import tvm_sparse
from tvm_sparse.compiler import verify_engine
from tvm_sparse.errors import VerificationError
from tvm_sparse.testing.tiny_decoders import TinyDecoder


def test_verified_and_different(tmp_path):
    path = TinyDecoder(layers=1).write(tmp_path / "tiny.onnx")
    engine = tvm_sparse.compile(path, threads=1, verify=True)
    assert "verified against ONNX Runtime" in str(verify_engine(path, engine))
    model = onnx.load(path)
    (table,) = (tensor for tensor in model.graph.initializer if tensor.name == "sin")
    table.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(table), "sin"))
    onnx.save(model, path)
    with pytest.raises(VerificationError, match="'logits' differs from ONNX Runtime"):
        verify_engine(path, engine)
