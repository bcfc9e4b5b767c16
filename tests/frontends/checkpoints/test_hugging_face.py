"""Folders in Hugging Face's layout, with whole, quantized and pruned weights."""

import json
import os
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tvm_sparse.decoders import QuantizedRows, quantize_rows
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checkpoints import as_onnx, is_checkpoint, open_checkpoint
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.testing.decoders import ReferenceDecoder
from tvm_sparse.verification.decoder import OnnxDecoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, MIXTRAL_TINY, RandomDecoder

numpy_files = pytest.importorskip("safetensors.numpy")

IDS = [3, 200, 7, 7, 91]
LAYER = "model.layers.1.mlp.down_proj."


def settings(config=LLAMA_TINY, **more):
    return {
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "num_hidden_layers": config.layers, "hidden_size": config.hidden,
        "intermediate_size": config.intermediate, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "vocab_size": config.vocabulary,
        "rms_norm_eps": config.norm_epsilon, "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta, "tie_word_embeddings": config.tied, **more,
    }  # fmt: skip


def tensors(parameters, dtype=np.float32):
    from tvm_sparse.decoders import parameter_names

    found = {name: parameters(name) for name in sorted(parameter_names(parameters.config))}
    return {name: value.astype(dtype) for name, value in found.items() if value is not None}


def write(folder, weights, described, shards=1):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(described))
    if shards == 1:
        numpy_files.save_file(weights, folder / "model.safetensors")
        return folder
    index = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: weights[key] for key in sorted(weights)[shard::shards]}
        numpy_files.save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    content = json.dumps({"weight_map": index})
    (folder / "model.safetensors.index.json").write_text(content)
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_folder_becomes_a_network(tmp_path, dtype, shards):
    parameters = RandomDecoder(LLAMA_TINY, 0.5)
    folder = write(tmp_path / "m", tensors(parameters, dtype), settings(), shards)
    if shards > 1:  # Mistral's folders hold the weights twice.
        numpy_files.save_file({"other": np.ones(3)}, folder / "consolidated.safetensors")
    got = OnnxDecoder(as_onnx(folder)).step(IDS)
    wanted = ReferenceDecoder(
        LLAMA_TINY,
        lambda name: None if (value := parameters(name)) is None else value.astype(dtype),
    ).step(IDS)
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    assert is_checkpoint(folder)
    assert len(list(ModelFiles(folder))) == 1 + shards


def test_qwen_2_has_biases_and_a_tied_head(tmp_path):
    config = replace(LLAMA_TINY, tied=True, norm_epsilon=1e-6)
    weights = tensors(RandomDecoder(config))
    for index in range(2):
        for part, width in (("q", 64), ("k", 32), ("v", 32)):
            name = f"model.layers.{index}.self_attn.{part}_proj.bias"
            weights[name] = np.linspace(-1, 1, width, dtype=np.float32)
    described = settings(config, architectures=["Qwen2ForCausalLM"], sliding_window=4,
                         use_sliding_window=False)  # fmt: skip
    folder = write(tmp_path / "m", weights, described)
    assert open_checkpoint(folder).config == config
    got = OnnxDecoder(as_onnx(folder)).step(IDS)
    np.testing.assert_allclose(got, ReferenceDecoder(config, weights.get).step(IDS), atol=2e-3)


def test_mistral_has_a_window(tmp_path):
    described = settings(architectures=["MistralForCausalLM"], sliding_window=3, head_dim=32)
    config = replace(LLAMA_TINY, window=3, head_size=32)
    folder = write(tmp_path / "m", tensors(RandomDecoder(config)), described)
    assert open_checkpoint(folder).config == config


def test_mixtral_has_experts(tmp_path):
    described = settings(architectures=["MixtralForCausalLM"], num_local_experts=4,
                         num_experts_per_tok=2)  # fmt: skip
    folder = write(tmp_path / "m", tensors(RandomDecoder(MIXTRAL_TINY)), described)
    assert open_checkpoint(folder).config == MIXTRAL_TINY
    got = OnnxDecoder(as_onnx(folder)).step(IDS)
    wanted = ReferenceDecoder(MIXTRAL_TINY, RandomDecoder(MIXTRAL_TINY)).step(IDS)
    np.testing.assert_allclose(got, wanted, atol=2e-3)


@pytest.mark.parametrize("entry", ["rope_scaling", "rope_parameters"])
def test_frequencies_are_scaled_as_llama_3_does(tmp_path, entry):
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 500.0,
    }  # fmt: skip
    described = settings(replace(LLAMA_TINY, rope_theta=500.0), **{entry: scaling})
    folder = write(tmp_path / "m", tensors(RandomDecoder(LLAMA_TINY)), described)
    plain = 500.0 ** -(np.arange(8) / 8)
    wanted = []
    for frequency in plain:  # transformers' _compute_llama3_parameters
        wave = 2 * np.pi / frequency
        smooth = (64 / wave - 1) / 3
        wanted.append(frequency if wave < 16 else frequency / 8 if wave > 64 else
                      (1 - smooth) * frequency / 8 + smooth * frequency)  # fmt: skip
    np.testing.assert_allclose(open_checkpoint(folder).config.frequencies, wanted)


def packed(codes, axis=1):
    """Pack codes of 4 bits as compressed-tensors' `pack_to_int32` does."""
    codes = codes.astype(np.uint32)
    if axis == 0:
        return np.ascontiguousarray(packed(codes.T).T)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).reshape(len(codes), -1, 8)
    return (
        (codes << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32)
    )


@pytest.mark.parametrize("group", [32, 160])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_weights_keep_their_numbers(tmp_path, group, symmetric):
    rng = np.random.default_rng(0)
    weights = tensors(RandomDecoder(LLAMA_TINY))
    dense = weights.pop(f"{LAYER}weight")
    rows, columns = dense.shape
    codes = rng.integers(0, 16, (rows, columns))
    scales = rng.random((rows, columns // group)).astype(ml_dtypes.bfloat16) + 1
    points = rng.integers(0, 16, scales.shape) if not symmetric else np.full(scales.shape, 8)
    weights |= {
        f"{LAYER}weight_packed": packed(codes), f"{LAYER}weight_scale": scales,
        f"{LAYER}weight_shape": np.array([rows, columns], np.int64),
    }  # fmt: skip
    if not symmetric:
        weights[f"{LAYER}weight_zero_point"] = packed(points, axis=0)
    scheme = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
    folder = write(tmp_path / "m", weights, settings(quantization_config=scheme))
    value = open_checkpoint(folder).read(f"{LAYER}weight")
    assert isinstance(value, QuantizedRows)
    spread = [np.repeat(part.astype(np.float32), group, axis=1) for part in (points, scales)]
    np.testing.assert_array_equal(value.dense(), (codes - spread[0]) * spread[1])
    model, _ = read_model(folder)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 1


@pytest.mark.parametrize("kind", ["sparse-bitmask", "sparse-24-bitmask"])
def test_bitmasks_say_where_values_stand(tmp_path, kind):
    parameters = RandomDecoder(LLAMA_TINY, (2, 4))
    weights = tensors(parameters, ml_dtypes.bfloat16)
    dense = weights.pop(f"{LAYER}weight")
    mask = dense != 0
    values = dense[mask]
    weights |= {
        f"{LAYER}compressed": values.reshape(len(dense), -1) if "24" in kind else values,
        f"{LAYER}bitmask": np.packbits(mask, axis=1, bitorder="little"),
        f"{LAYER}shape": np.array(dense.shape, np.int64).reshape(-1, 1),
    }
    if "24" not in kind:
        weights[f"{LAYER}row_offsets"] = np.cumsum(mask.sum(axis=1)) - mask.sum(axis=1)
    scheme = {"quant_method": "compressed-tensors", "sparsity_config": {"format": kind}}
    folder = write(tmp_path / "m", weights, settings(quantization_config=scheme))
    value = open_checkpoint(folder).read(f"{LAYER}weight")
    np.testing.assert_array_equal(value, dense.astype(np.float32))


def test_floats_are_rounded_on_the_way(tmp_path):
    config = replace(LLAMA_TINY, tied=True)
    parameters = RandomDecoder(config, (2, 4))
    folder = write(tmp_path / "m", tensors(parameters), settings(config))
    path = open_checkpoint(folder).write(tmp_path / "int4.onnx", block=32)

    def rounded(name):
        value = parameters("model.embed_tokens.weight" if name == "lm_head.weight" else name)
        if value is None or value.ndim == 1 or "embed" in name:
            return value
        return quantize_rows(value)

    got = OnnxDecoder(path).step(IDS)
    wanted = ReferenceDecoder(replace(config, tied=False), rounded).step(IDS)
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "'GPT2LMHeadModel' cannot be read"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "scaling 'yarn'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "format 'gptq'"),
        ({"quantization_config": "gptq"}, "the format of the weights is broken"),
        ({"quantization_config": {"format": "marlin-24"}}, "format 'marlin-24'"),
        ({"num_attention_heads": "many"}, "not the sizes of a network"),
        ({"num_hidden_layers": 2**62}, "layers 4611686018427387904"),
        ({"partial_rotary_factor": 1e6}, "of 16 channels of a head are rotated"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "angles that are no numbers"),
        ({"rope_theta": -1.0}, "the base -1.0 of its angles"),
        ({"head_dim": 2**40}, "head_size 1099511627776"),
        ({"head_dim": -4}, "head_size -4"),
        ({"vocab_size": 300}, r"'model.embed_tokens.weight' is \(256, 64\), not \(300, 64\)"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, said):
    folder = write(tmp_path / "m", tensors(RandomDecoder(LLAMA_TINY)), settings(**change))
    with pytest.raises(ModelError, match=said):
        read_model(folder)


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "a\0b", "..", ""])
def test_an_index_names_files_of_its_folder(tmp_path, name):
    weights = tensors(RandomDecoder(LLAMA_TINY))
    folder = write(tmp_path / "m", weights, settings(), shards=2)
    (tmp_path / "w.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ModelError, match="is no file of the folder"):
        read_model(folder)


def test_an_index_without_end_is_left_out(tmp_path):
    folder = write(tmp_path / "m", tensors(RandomDecoder(LLAMA_TINY)), settings())
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    assert read_model(folder)[0].graph.node


def test_broken_folders_are_one_error(tmp_path):
    weights = tensors(RandomDecoder(LLAMA_TINY))
    folder = write(tmp_path / "m", weights, settings())
    file = folder / "model.safetensors"
    content = file.read_bytes()
    for size in (0, 4, 500, len(content) - 9):
        file.write_bytes(content[:size])
        with pytest.raises(ModelError, match="not a safetensors file"):
            read_model(folder)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_model(folder)
    file.unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        read_model(folder)
    write(folder, {**weights, "extra": np.ones(2)}, settings())
    with pytest.raises(ModelError, match="'extra' is no part"):
        read_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        read_model(folder)
