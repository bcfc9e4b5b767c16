"""Linear layers on a few rows: their tiles, and when they are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import default_kernel, sparse_or_dense
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import (
    ROW_LINEAR_FAMILY,
    SPARSE_ROW_LINEAR_FAMILY,
    RowTiling,
    SparseRowTiling,
    most_rows,
)

CPU = replace(profile("skylake-avx512"), cores=2)


def layer(n=1024, k=1024, rows=1, density=1.0):
    return Layer(Linear(rows, 1, n, k), density)


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("n", "k"), [(1024, 1024), (1000, 2048), (7, 13), (1, 1)])
def test_every_tiling_is_possible(name, n, k):
    cpu = profile(name)
    for rows in range(1, most_rows(cpu) + 1):
        tiling = ROW_LINEAR_FAMILY.default(layer(n, k, rows), cpu)
        assert tiling.units <= n
        assert tiling.rows * (tiling.vectors + 1) < cpu.vector_registers


def test_pruned_layers_of_one_row_are_sparse():
    assert type(default_kernel(layer(density=0.1), CPU)) is SparseRowTiling
    assert type(default_kernel(layer(density=0.9), CPU)) is RowTiling


def test_a_sparse_kernel_gains_what_it_saves_in_bytes():
    """Of weights that come from L3, five bytes a value are left of four for each weight."""
    choice = sparse_or_dense(layer(1024, 2048, density=0.1), CPU)
    assert 4 < choice.dense_cycles / choice.sparse_cycles < 6


def test_a_small_layer_is_left_to_one_thread():
    assert ROW_LINEAR_FAMILY.default(layer(64, 64), CPU).jobs == 1
    assert ROW_LINEAR_FAMILY.default(layer(4096, 1024), CPU).jobs == 2


@pytest.mark.parametrize(
    ("sizes", "name", "words"),
    [
        ({"lanes": 16}, "skylake-avx512", "one lane"),
        ({"n": 8}, "skylake-avx512", "too small"),
        ({"k": 16}, "skylake-avx512", "too small"),
        ({}, "rpi4", "AVX-512 or AVX2"),
    ],
)
def test_refusals(sizes, name, words):
    problem = replace(Linear(1, 1, 1024, 1024), **sizes)
    assert words in SPARSE_ROW_LINEAR_FAMILY.refusal(Layer(problem, 0.1), profile(name))
