"""What masks of attention say, and what is none of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.masks import mask_of

ROWS, PAST = 3, 2000
TOTAL = ROWS + PAST
OWN, PLACE = np.arange(PAST, TOTAL)[:, None], np.arange(TOTAL)
CAUSAL = np.where(PLACE <= OWN, 0, np.finfo("float32").min).astype("float32")
SLOPES = (2.0 ** -np.arange(1, 5) * 1.3).astype("float32")


def read(*arrays, factors=None, is_causal=False):
    names = [f"mask{i}" for i in range(len(arrays))]
    nodes = [helper.make_node("Identity", [f"given{i}"], [name]) for i, name in enumerate(names)]
    tensors = [numpy_helper.from_array(a, f"given{i}") for i, a in enumerate(arrays)]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    graph = helper.make_graph(nodes, "masks", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    both = dict(zip(names, factors or [1.0] * len(names), strict=True))
    return mask_of(model, Path(), both, ROWS, PAST, is_causal)


def test_causal_masks_and_windows():
    assert read(CAUSAL[None, None]).window == 0
    window = np.where((PLACE <= OWN) & (PLACE > OWN - 7), np.float32(0), np.float32(-1e4))
    assert read(window) == read(window, factors=[2.0])
    assert read(window).window == 7
    assert read(window == 0).window == 7
    assert read(window != 0, factors=[-1.0]).window == 7


@pytest.mark.parametrize("start", [0, TOTAL - 1])
def test_slopes(start):
    """Positions are counted from the first token, as Bloom does, or from the last, as MPT does."""
    biases = SLOPES[:, None, None] * (PLACE - np.float32(start)).astype("float32")
    mask = read(biases, CAUSAL)
    assert mask.window == 0
    assert mask.slopes == tuple(SLOPES.tolist())
    assert read(biases + CAUSAL).slopes == tuple(SLOPES.tolist())
    np.testing.assert_allclose(read(biases, CAUSAL, factors=[0.5, 1]).slopes, SLOPES / 2)


@pytest.mark.parametrize(
    "mask",
    [
        CAUSAL + np.where(PLACE == 5, np.float32(1), np.float32(0)),
        CAUSAL + np.sqrt(PLACE, dtype="float32"),
        np.where(PLACE == 5, np.float32(-1e30), CAUSAL),
        np.zeros((ROWS, TOTAL), "float32"),
        np.stack([CAUSAL, np.where(PLACE == 5, np.float32(-1e30), CAUSAL)]),
        np.stack([CAUSAL, CAUSAL]) == 0,
    ],
    ids=["a number", "a curve", "a hole", "later tokens", "a hole in a head", "booleans of heads"],
)
def test_what_masks_may_not_do(mask):
    with pytest.raises(ModelError, match="mask0"):
        read(mask)
