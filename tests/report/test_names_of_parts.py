"""A layer that is split, behind changed layouts, is reported under its name in the file."""

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import pruned, write_onnx

RNG = np.random.default_rng(0)


def attention(index, x, has_bias):
    """Return nodes of a block that computes q, k and v by one Gemm, as GPT-2 does."""
    bias = ["b"] if has_bias else []
    return [
        make_node("Reshape", [x, "flat"], [f"flat{index}"]),
        make_node(
            "Gemm", [f"flat{index}", f"w{index}", *bias], [f"g{index}"], name=f"/{index}/qkv"
        ),
        make_node("Reshape", [f"g{index}", "back"], [f"back{index}"]),
        *(
            make_node("Slice", [f"back{index}", f"at{i}", f"at{i + 1}", "axis"], [f"{n}{index}"])
            for i, n in enumerate("qkv")
        ),
        make_node("Mul", [f"q{index}", f"k{index}"], [f"qk{index}"]),
        make_node("Add", [f"qk{index}", f"v{index}"], [f"y{index}"]),
    ]


@pytest.mark.parametrize("has_bias", [True, False])
def test_parts_have_the_name_of_the_whole(tmp_path, has_bias):
    constants = {
        "flat": np.array([64, 128]),
        "back": np.array([1, 64, 384]),
        "axis": np.array([2]),
        **{f"at{i}": np.array([128 * i]) for i in range(4)},
        "b": RNG.standard_normal(384).astype("float32"),
        **{f"w{index}": pruned(RNG, (128, 384), 0.1) for index in (0, 1)},
    }
    nodes = [*attention(0, "x", has_bias), *attention(1, "y0", has_bias)]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 64, 128]}, ["y1"], constants, opset=18)
    layers = analyze(path, target="haswell").layers
    assert [layer.name for layer in layers] == ["/0/qkv"] * 3 + ["/1/qkv"] * 3
    assert all(layer.is_sparse for layer in layers)
