"""Decoder graphs against NumPy, run by ONNX Runtime."""

from dataclasses import replace

import numpy as np
import pytest

from tvm_sparse.decoders import decoder_model, write_decoder
from tvm_sparse.errors import ModelError
from tvm_sparse.testing.decoders import ReferenceDecoder
from tvm_sparse.verification.decoder import OnnxDecoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, MIXTRAL_TINY, RandomDecoder


class Biased(RandomDecoder):
    """A model with biases of query, key and value, as Qwen 2 has them."""

    def __call__(self, name):
        if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
            width = self.config.query_width if "q_proj" in name else self.config.kv_width
            return np.linspace(-1, 1, width, dtype=np.float32)
        return super().__call__(name)


CASES = {
    "float": (LLAMA_TINY, RandomDecoder, 0.0, 0),
    "pruned": (LLAMA_TINY, RandomDecoder, 0.7, 0),
    "int4": (LLAMA_TINY, RandomDecoder, (2, 4), 32),
    "int4 in blocks of 128": (replace(LLAMA_TINY, intermediate=208), RandomDecoder, 0.0, 128),
    "tied": (replace(LLAMA_TINY, tied=True), RandomDecoder, 0.0, 0),
    "tied int4": (replace(LLAMA_TINY, tied=True), RandomDecoder, 0.0, 32),
    "window": (replace(LLAMA_TINY, window=4), RandomDecoder, 0.0, 0),
    "biases": (LLAMA_TINY, Biased, 0.0, 0),
    "scaled": (replace(LLAMA_TINY, frequencies=tuple(0.5**i for i in range(8))), RandomDecoder,
               0.0, 0),
    "partly rotated": (replace(LLAMA_TINY, head_size=32, frequencies=(0.5,) * 8), RandomDecoder,
                       0.0, 0),
    "experts": (MIXTRAL_TINY, RandomDecoder, 0.0, 0),
    "one of eight experts": (replace(MIXTRAL_TINY, experts=8, active_experts=1), RandomDecoder,
                             0.5, 0),
    "int4 experts": (MIXTRAL_TINY, RandomDecoder, 0.0, 32),
    "one key head a head": (replace(LLAMA_TINY, kv_heads=4), RandomDecoder, 0.0, 0),
}  # fmt: skip


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_computes_what_numpy_does(case, packed):
    config, kind, zeros, block = CASES[case]
    parameters = kind(config, zeros, block)
    session = OnnxDecoder(decoder_model(config, parameters, accuracy_level=1, packed=packed))
    reference = ReferenceDecoder(config, parameters)
    for ids in ([3, 200, 7, 7, 91], [12], [255], [0, 5, 6]):
        np.testing.assert_allclose(session.step(ids), reference.step(ids), atol=2e-3, rtol=1e-3)
    keys = np.stack(reference.keys[-1], axis=1)
    np.testing.assert_allclose(session.past["past_key_values.1.key"][0], keys, atol=2e-3)


def test_activations_of_8_bits_change_little():
    parameters = RandomDecoder(LLAMA_TINY, 0.0, 32)
    rounded, exact = (
        OnnxDecoder(decoder_model(LLAMA_TINY, parameters, accuracy_level=level)) for level in (4, 1)
    )
    got, wanted = rounded.step([1, 2, 3]), exact.step([1, 2, 3])
    assert 0 < np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_weights_beside_the_file_are_the_same(tmp_path):
    parameters = RandomDecoder(LLAMA_TINY, 0.5, 32)
    inside = write_decoder(tmp_path / "in.onnx", LLAMA_TINY, parameters)
    beside = write_decoder(tmp_path / "out.onnx", LLAMA_TINY, parameters, beside=True)
    assert {path.name for path in tmp_path.iterdir()} == {"in.onnx", "out.onnx", "out.onnx.data"}
    assert beside.stat().st_size < inside.stat().st_size / 4
    first, second = (OnnxDecoder(path).step([5, 6]) for path in (inside, beside))
    np.testing.assert_array_equal(first, second)


def test_a_missing_or_wrong_parameter_is_named():
    parameters = RandomDecoder(LLAMA_TINY)

    def lacking(name):
        return None if "layers.1.mlp.up_proj" in name else parameters(name)

    with pytest.raises(ModelError, match=r"no parameter 'model.layers.1.mlp.up_proj.weight'"):
        decoder_model(LLAMA_TINY, lacking)
    with pytest.raises(ModelError, match=r"'lm_head.weight' is \(256, 64\), not \(300, 64\)"):
        decoder_model(replace(LLAMA_TINY, vocabulary=300), lambda name: parameters(name) if
                      "embed" not in name else np.zeros((300, 64), np.float32))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kv_heads": 3}, "must divide"),
        ({"experts": 2, "active_experts": 3}, "3 of 2 experts"),
        ({"layers": 0}, "from 1 to 4096"),
        ({"head_size": 24}, "multiple of 8"),
        ({"frequencies": (1.0,) * 16}, "at most half"),
    ],
)
def test_sizes_that_make_no_network_are_refused(change, said):
    with pytest.raises(ModelError, match=said):
        replace(LLAMA_TINY, **change)
