from __future__ import annotations

import numpy as np
import pytest
import tvm

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.operators.attention import attention
from tvm_sparse.schedules.operators.packed_attention import PackedAttention
from tvm_sparse.schedules.operators.padding_map import count_rows, make_map
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.testing.kernels import run_kernel

TEXT = "no mask"


def packed_map(mask: np.ndarray, lanes: int, keeps_first: bool):
    """Return source, first, count and place, written as plainly as possible."""
    source, first, count, place = [], [], [], np.full(mask.shape, -1)
    for i, row in enumerate(mask):
        tokens = list(np.flatnonzero(row))
        keys = len(tokens)
        if keeps_first and keys and not row[0]:
            tokens.append(0)
        begin, rows = len(first), -(-len(tokens) // lanes)
        for number, j in enumerate(tokens):
            place[i, j] = begin * lanes + number
        lane_sources = [i * mask.shape[1] + j for j in tokens]
        source += lane_sources + [0] * (rows * lanes - len(tokens))
        first += [begin] * rows
        count += [keys] * rows
    if not first:
        source, first, count = [0] * lanes, [0], [1]
    return np.array(source).reshape(-1, lanes), np.array(first), np.array(count), place


@pytest.fixture(scope="module", params=[("int64", 16, True), ("bool", 8, False)])
def maps(request):
    dtype, lanes, keeps_first = request.param
    functions = {
        "count": count_rows(dtype, lanes, keeps_first, TEXT),
        "map": make_map(dtype, lanes, keeps_first),
    }
    mod = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    return build(mod, native().to_target()), dtype, lanes, keeps_first


def test_every_token_of_any_mask_has_its_place(maps):
    built, dtype, lanes, keeps_first = maps
    rng, tensor = np.random.default_rng(0), tvm.runtime.tensor
    for batch, tokens in ((1, 1), (3, 16), (5, 33), (4, 50), (2, 7)):
        for share in (0, 0.3, 1):
            mask = rng.random((batch, tokens)) < share
            wanted = packed_map(mask, lanes, keeps_first)
            rows = tensor(np.zeros(1, "int64"))
            built["count"](tensor(mask.astype(dtype)), rows)
            assert rows.numpy()[0] == len(wanted[1])
            got = [tensor(np.full(array.shape, 99, "int32")) for array in wanted]
            built["map"](tensor(mask.astype(dtype)), *got)
            for made, expected in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(made.numpy(), expected)


def test_other_numbers_are_no_mask(maps):
    built, dtype, _, _ = maps
    if dtype == "bool":
        return
    mask = np.ones((2, 5), dtype)
    mask[1, 3] = 2
    with pytest.raises(ValueError, match=TEXT):
        built["count"](tvm.runtime.tensor(mask), tvm.runtime.tensor(np.zeros(1, "int64")))


@pytest.mark.parametrize(
    ("lanes", "head_dim", "dtype"),
    [(16, 16, "float32"), (8, 7, "float32"), (16, 7, "float16"), (32, 32, "float16")],
)
def test_sentences_attend_to_their_own_tokens_only(lanes, head_dim, dtype):
    """On AMX where there is one, if lanes and channels are multiples of 32."""
    rng, heads, lengths, cpu = np.random.default_rng(0), 3, (40, 1, lanes, 2 * lanes + 3), native()
    longest, channels = max(lengths), heads * head_dim
    mask = np.arange(longest) < np.array(lengths)[:, None]
    source, first, count, place = packed_map(mask, lanes, False)
    qkv = [rng.standard_normal((len(lengths), longest, channels)).astype(dtype) for _ in "qkv"]
    packed = [np.ascontiguousarray(x.reshape(-1, channels)[source].transpose(0, 2, 1)) for x in qkv]
    packed = [with_junk(x, first, count) for x in packed]
    stage = PackedAttention(len(first), longest, heads, head_dim, lanes, 0.3, cpu, DType(dtype))
    inputs = [*packed, first.astype("int32"), count.astype("int32")]
    got = run_kernel(kernel(stage), inputs, packed[0].shape, cpu)
    got = got.transpose(0, 2, 1).reshape(-1, channels)[place[mask]]
    rows = len(lengths) * -(-longest // lanes)
    blocks = -(-longest // lanes) * lanes
    wide = [np.pad(x, [(0, 0), (0, blocks - longest), (0, 0)]) for x in qkv]
    panels = [
        np.ascontiguousarray(x.reshape(rows, lanes, channels).transpose(0, 2, 1)) for x in wide
    ]
    bias = np.where(mask, 0, -np.inf).astype("float32")[:, None, None]
    sizes = (len(lengths), longest, longest, heads, head_dim, lanes)
    func = attention(*sizes, 0.3, bias.shape, cpu, DType(dtype))
    want = run_kernel(func, [*panels, bias], panels[0].shape, cpu)
    want = want.transpose(0, 2, 1).reshape(len(lengths), blocks, channels)[:, :longest][mask]
    if lanes % 32:
        np.testing.assert_array_equal(got, want)
    else:  # another kernel of the matrix unit adds up other zeros
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3)


def with_junk(x, first, count):
    """Fill the lanes behind the keys of each sentence with numbers that nobody may see."""
    x = x.copy()
    for row in range(len(first)):
        behind = np.arange(x.shape[2]) + (row - first[row]) * x.shape[2] >= count[row]
        x[row][:, behind] = np.nan
    return x
