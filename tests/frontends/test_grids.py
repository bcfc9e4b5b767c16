"""Constants that are grids, such as the anchors of a detector, at sizes that no probe has."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_sparse.frontends.formulas import Formulas
from tvm_sparse.frontends.lifted_constants import Constants
from tvm_sparse.frontends.probes import probes


def grid(high, wide):
    y, x = np.meshgrid(np.arange(high), np.arange(wide), indexing="ij")
    return np.stack([x, y], -1).astype("float32")


def corners(high, wide):
    return grid(high, wide)[None, None]


def centers_of_levels(high, wide):
    levels = [grid(high * n, wide * n).reshape(-1, 2) + np.float32(0.5) for n in (4, 2, 1)]
    return np.concatenate(levels).T[None]


def strides_of_levels(high, wide):
    return np.concatenate([np.full(n * n * high * wide, 32 / n, "float32") for n in (4, 2, 1)])


def scaled(high, wide):
    return (grid(2 * high, wide) * 8).reshape(1, -1, 2)


def lifted(make):
    at = probes(["height", "width"])
    arrays = [make(sizes["height"], sizes["width"]) for sizes in at]
    variables = {name: tirx.Var(name, "int64") for name in at[0]}
    constants = Constants(Formulas(at, variables), list)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([variables["height"], variables["width"]], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value = constants.lifted(arrays, relax.const(arrays[0]), builder.emit)
            value = builder.emit_output(value)
        builder.emit_func_output(value)
    return relax.VirtualMachine(tvm.compile(builder.get(), "llvm"), tvm.cpu())["main"]


@pytest.mark.parametrize("make", [corners, centers_of_levels, strides_of_levels, scaled])
def test_grids_of_any_size(make):
    main = lifted(make)
    for high, wide in ((1, 1), (1, 6), (9, 2), (20, 20)):
        found = main(tvm.runtime.tensor(np.zeros((high, wide), "float32"))).numpy()
        np.testing.assert_array_equal(found, make(high, wide))


def test_numbers_of_no_pattern_are_an_error():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown way"):
        lifted(lambda high, wide: rng.random((high * wide, 2)).astype("float32"))
