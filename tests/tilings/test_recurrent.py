from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import PROFILES
from tvm_sparse.formats.recurrent_columns import ColumnSparse
from tvm_sparse.formats.windows import WindowSparse
from tvm_sparse.sizes.recurrent import Recurrent
from tvm_sparse.tilings.recurrent import (
    dense_cycles,
    recurrent_tiling,
    sparse_cycles,
    sparse_format,
    sparse_recurrent_tiling,
)

XEON = replace(PROFILES["skylake-avx512"], cores=4)


def test_a_layer_that_is_not_worth_a_wait_has_one_job():
    tiling = recurrent_tiling(Recurrent("lstm", 10, 1, 16), XEON)
    assert (tiling.jobs, tiling.groups) == (1, 1)


def test_sequences_are_shared_if_the_weight_fits_the_cache_of_every_core():
    tiling = recurrent_tiling(Recurrent("lstm", 10, 8, 128), replace(XEON, cores=2))
    assert (tiling.jobs, tiling.groups) == (1, 2)
    tiling = recurrent_tiling(Recurrent("lstm", 10, 8, 128, directions=2), XEON)
    assert (tiling.jobs, tiling.groups) == (1, 2)


def test_a_large_weight_is_shared_by_jobs():
    tiling = recurrent_tiling(Recurrent("lstm", 10, 8, 1024), XEON)
    assert (tiling.jobs, tiling.groups) == (4, 1)


@pytest.mark.parametrize("batch", [1, 6, 7])
def test_groups_have_equally_many_sequences(batch):
    groups = recurrent_tiling(Recurrent("lstm", 10, batch, 128), XEON).groups
    assert batch % groups == 0


@pytest.mark.parametrize(
    ("target", "packing"),
    [
        ("skylake-avx512", WindowSparse),
        ("haswell", WindowSparse),
        ("rpi4", ColumnSparse),
        ("riscv64", None),
    ],
)
def test_every_processor_has_its_packing(target, packing):
    cpu = PROFILES[target]
    assert sparse_format(cpu) is packing
    tiling = sparse_recurrent_tiling(Recurrent("lstm", 10, 1, 64), cpu)
    if packing is None:
        assert isinstance(tiling, str)
    else:
        assert not isinstance(tiling, str)


def test_a_layer_of_few_units_says_why_it_has_no_sparse_kernel():
    assert "16 hidden units" in str(sparse_recurrent_tiling(Recurrent("gru", 10, 1, 8), XEON))
    rpi4 = PROFILES["rpi4"]
    assert "65536" in str(sparse_recurrent_tiling(Recurrent("gru", 10, 1, 1 << 17), rpi4))


@pytest.mark.parametrize("target", ["skylake-avx512", "haswell", "rpi4", "rpi5"])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_tenth_of_the_values_costs_less_than_all(target, batch):
    problem, cpu = Recurrent("lstm", 10, batch, 256), PROFILES[target]
    tiling = sparse_recurrent_tiling(problem, cpu)
    assert not isinstance(tiling, str)
    vectors = 0.16 * 4 * 256**2 / tiling.width
    weight_bytes = 6 * vectors * tiling.width
    dense = dense_cycles(problem, tiling.width, cpu)
    assert sparse_cycles(problem, vectors, weight_bytes, cpu) < dense
