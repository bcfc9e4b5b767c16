"""Seeded language models: their zeros, and that their signal lives."""

import numpy as np
import onnx
import pytest

from tvm_sparse.decoders import QuantizedRows
from tvm_sparse.errors import ModelError
from tvm_sparse.testing.decoders import ReferenceDecoder
from tvm_sparse.zoo import recipes
from tvm_sparse.zoo.decoders import LLAMA_TINY, RandomDecoder, pruned_rows


@pytest.mark.parametrize("zeros", [0.0, 0.7, (2, 4), (4, 16), (5, 16)])
@pytest.mark.parametrize("block", [0, 32])
def test_logits_depend_on_every_token(zeros, block):
    parameters = RandomDecoder(LLAMA_TINY, zeros, block)
    first, second, third = (
        ReferenceDecoder(LLAMA_TINY, parameters).step(ids)[-1]
        for ids in ([1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    )
    spread = np.std(first)
    assert 0.3 < spread < 5
    assert np.std(first - second) > 0.05 * spread
    assert np.std(first - third) > 0.5 * spread


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (4, 16), (5, 16)])
def test_patterns_hold_and_survive_rounding(kept, of):
    weight = RandomDecoder(LLAMA_TINY, (kept, of), 32)("model.layers.0.mlp.gate_proj.weight")
    assert isinstance(weight, QuantizedRows)
    zero = weight.unpacked().reshape(-1, of) == 8
    assert (zero.sum(axis=1) >= of - kept).all()
    assert (zero.sum(axis=1) == of - kept).mean() > 0.7


def test_the_smallest_magnitudes_of_a_row_are_pruned():
    weight = np.array([[3, -1, 2, 0.5], [1, 2, -3, 4]], np.float32)
    np.testing.assert_array_equal(pruned_rows(weight, 0.5), [[3, 0, 2, 0], [0, 0, -3, 4]])
    np.testing.assert_array_equal(pruned_rows(weight, (1, 2)), [[3, 0, 2, 0], [0, 2, 0, 4]])
    assert not pruned_rows(weight, 1.0).any()
    with pytest.raises(ModelError, match="groups of 16"):
        pruned_rows(weight, (4, 16))


def test_recipes_are_named_by_weights_and_zeros(tmp_path):
    recipe = recipes.recipe("llama-tiny-int4-2of4")
    model = onnx.load(recipe.build(tmp_path / "model.onnx"))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 2 * 5 + 1
    assert kinds.count("GroupQueryAttention") == 2
    assert {value.name for value in model.graph.input} == set(recipe.shapes)
    assert (
        recipe.build(tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    )
    for name in ("llama-tiny-2of4", "llama-tiny-int4g128-70", "llama-1.1b-int4-0"):
        recipes.recipe(name)
    with pytest.raises(ModelError, match="llama-tiny-int4g128"):
        recipes.recipe("llama-tiny-3of4")
