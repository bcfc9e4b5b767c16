"""Decoders are verified by the logits of some tokens."""

import numpy as np
import onnx
import pytest

import tvm_sparse
from tvm_sparse.compiler import verify_engine
from tvm_sparse.decoders import write_decoder
from tvm_sparse.errors import VerificationError
from tvm_sparse.testing.tiny_decoders import TinyDecoder
from tvm_sparse.verification.decoder import compare_decoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, RandomDecoder


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


def test_activations_of_8_bits_may_differ_by_their_rounding(tmp_path):
    parameters = RandomDecoder(LLAMA_TINY, block=32)
    path = write_decoder(tmp_path / "int4.onnx", LLAMA_TINY, parameters)
    engine = tvm_sparse.compile(path, threads=1)
    found = compare_decoder(path, engine)
    assert 1e-3 < found.allowed < 0.1
    assert not found.is_error
    verify_engine(path, engine)
    model = onnx.load(path)
    (scales,) = (
        t for t in model.graph.initializer if t.name.endswith("lm_head.MatMul.weight_scales")
    )
    wrong = np.roll(onnx.numpy_helper.to_array(scales), 1, axis=0)
    scales.CopyFrom(onnx.numpy_helper.from_array(wrong, scales.name))
    onnx.save(model, path)
    with pytest.raises(VerificationError, match="'logits' differs from ONNX Runtime"):
        verify_engine(path, engine)
