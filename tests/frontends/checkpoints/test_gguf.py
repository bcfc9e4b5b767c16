"""GGUF files: the numbers that llama.cpp has, in the rows that ONNX wants."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from tvm_sparse.decoders import QuantizedRows
from tvm_sparse.decoders.parameters import ROUTER
from tvm_sparse.errors import ModelError, ToolError
from tvm_sparse.frontends.checkpoints import as_onnx, is_checkpoint, open_checkpoint
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.testing.decoders import ReferenceDecoder
from tvm_sparse.testing.gguf_files import write_gguf
from tvm_sparse.verification.decoder import OnnxDecoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, MIXTRAL_TINY, RandomDecoder

gguf = pytest.importorskip("gguf")


class Rounded:
    """The parameters that a file holds after rounding to its type."""

    def __init__(self, parameters, kind):
        self.parameters, self.type = parameters, gguf.GGMLQuantizationType[kind]

    def __call__(self, name):
        value = self.parameters(name)
        if value is None or value.ndim == 1:
            return value
        return gguf.dequantize(gguf.quantize(value, self.type), self.type)


IDS = [3, 200, 7, 7, 91]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16", "F32", "BF16"])
def test_numbers_are_those_of_the_file(tmp_path, kind):
    parameters = RandomDecoder(LLAMA_TINY, 0.5)
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, parameters, kind)
    checkpoint = open_checkpoint(path)
    assert replace(checkpoint.config, norm_epsilon=1e-5) == LLAMA_TINY
    rounded = Rounded(parameters, kind)
    for name in checkpoint.names:
        value = checkpoint.read(name)
        dense = value.dense() if isinstance(value, QuantizedRows) else value
        np.testing.assert_array_equal(dense.astype(np.float32), rounded(name), err_msg=name)
    weight = checkpoint.read("model.layers.0.mlp.up_proj.weight")
    assert isinstance(weight, QuantizedRows) == kind.startswith("Q")


def test_experts_are_taken_from_their_stacks(tmp_path):
    parameters = RandomDecoder(MIXTRAL_TINY)
    path = write_gguf(tmp_path / "model.gguf", MIXTRAL_TINY, parameters)
    rounded = Rounded(parameters, "Q4_0")
    got = OnnxDecoder(as_onnx(path)).step(IDS)
    wanted = ReferenceDecoder(
        MIXTRAL_TINY, lambda name: (parameters if ROUTER in name else rounded)(name)
    ).step(IDS)
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("kind", "architecture"), [("Q4_0", "llama"), ("F16", "qwen2")])
def test_a_file_becomes_a_network(tmp_path, kind, architecture):
    parameters = RandomDecoder(LLAMA_TINY)
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, parameters, kind, architecture)
    got = OnnxDecoder(as_onnx(path)).step(IDS)
    wanted = ReferenceDecoder(LLAMA_TINY, Rounded(parameters, kind)).step(IDS)
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_a_tied_head_stays_quantized(tmp_path):
    config = replace(LLAMA_TINY, tied=True)
    path = write_gguf(tmp_path / "model.gguf", config, RandomDecoder(config))
    model, _ = read_model(path)
    (head,) = (node for node in model.graph.node if "logits" in node.output)
    assert head.op_type == "MatMulNBits"


def test_divisors_of_frequencies_are_taken(tmp_path):
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, RandomDecoder(LLAMA_TINY),
                 more=[("rope_freqs.weight", divisors)])  # fmt: skip
    plain = 10000.0 ** -(np.arange(8) / 8)
    np.testing.assert_allclose(open_checkpoint(path).config.frequencies, plain / divisors)


def test_other_types_are_read_as_floats_with_a_word(tmp_path, caplog):
    config = replace(LLAMA_TINY, hidden=256, intermediate=256, head_size=64)
    path = write_gguf(tmp_path / "model.gguf", config, RandomDecoder(config), "Q5_0")
    read_model(path)
    assert "'blk.0.attn_q.weight' is of type Q5_0" in caplog.text


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, RandomDecoder(LLAMA_TINY))
    first = as_onnx(path)
    assert as_onnx(path) == first
    path.unlink()
    write_gguf(path, LLAMA_TINY, RandomDecoder(LLAMA_TINY, seed=1))
    assert as_onnx(path) != first
    assert is_checkpoint(path)
    assert list(ModelFiles(path)) == [path]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"architecture": "gemma2"}, "'gemma2' cannot be read"),
        ({"fields": {"expert_count": 2}}, "'model.layers.0.mlp.down_proj.weight' and 5 more"),
        ({"more": [("blk.0.attn_q_norm.weight", np.ones(16, np.float32))]}, "attn_q_norm"),
        ({"fields": {"attention.value_length": 8}}, "another size"),
    ],
)
def test_other_networks_are_refused(tmp_path, options, said):
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, RandomDecoder(LLAMA_TINY), **options)
    with pytest.raises(ModelError, match=said):
        read_model(path)


def test_broken_files_and_a_missing_package_are_one_error(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", LLAMA_TINY, RandomDecoder(LLAMA_TINY))
    content = path.read_bytes()
    for size in (4, 100, 2000, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"model\.gguf"):
            read_model(path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ToolError, match=r"pip install 'tvm-sparse\[gguf\]'"):
        read_model(path)
