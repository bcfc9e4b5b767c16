"""Estimates of ARM cores: the sparse loops reach their share of the bound, qemu's counts add up.

And kernels for RISC-V, of which TVM has no runtime to run whole models with.
"""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import board_layers
import llvm_mca
import numpy as np
import pytest

from tvm_sparse.cpu.profile import profile
from tvm_sparse.errors import ToolError, TvmSparseError
from tvm_sparse.testing.kernels import assembly
from tvm_sparse.testing.models import needs_tool

LOG = """
----------------
IN: main
0x00400580:  a9be7bfd  stp      x29, x30, [sp, #-0x20]!
0x00400584:  910003fd  mov      x29, sp
0x00400588:  14000002  b        #0x400590

Trace 0: 0x7f6b3c000100 [00000000/0000000000400580/00000000/ff200000] main
----------------
IN: main
0x00400590:  f1000421  subs     x1, x1, #1
0x00400594:  54ffffe1  b.ne     #0x400590

Linking TBs 0x7f6b3c000100 [0000000000400580] index 0 -> 0x7f6b3c000240 [0000000000400590]
Trace 0: 0x7f6b3c000240 [00000000/0000000000400590/00000000/ff200000] main
Trace 0: 0x7f6b3c000240 [00000000/0000000000400590/00000000/ff200000] main
"""


@pytest.fixture
def estimates():
    return importlib.import_module("board_estimates")


@pytest.fixture
def counts():
    return importlib.import_module("instruction_counts")


@pytest.fixture
def small():
    """A layer of 1024 weights."""
    return board_layers.NetworkLayer(
        "small", lambda s, cpu: board_layers.linear_kernel(32, 32, 16, s, cpu)
    )


def test_every_run_of_a_piece_of_code_counts(counts):
    assert counts.sum_of_log(LOG.splitlines()) == 3 + 2 + 2


@pytest.mark.parametrize("board", ["rpi4", "rpi5", "graviton2"])
def test_sparse_loops_reach_60_percent_of_the_bound(estimates, board):
    with needs_tool(ToolError):
        llvm_mca.find_llvm_mca()
    layers = [layer for layer in estimates.LAYERS if layer.name.split()[-1] in ("768", "14", "7")]
    assert len(layers) == 3
    for line in estimates.loop_lines(layers, [board], sparsities=[0.9]):
        assert line.vectors >= 2
        assert line.loop.share >= 0.6, line


def test_a_sparse_kernel_executes_fewer_instructions(estimates, counts, small):
    with needs_tool(TvmSparseError):
        counts.check_tools()
    dense, sparse = estimates.count_lines([small], [0.9])
    vectors = 4
    assert 32 * 32 * vectors < dense.instructions < 3 * 32 * 32 * vectors
    assert 32 * 32 * vectors // 10 < sparse.instructions < dense.instructions / 2
    assert sparse.dense == dense.instructions


def test_wrong_outputs_are_not_counted(estimates, counts, small, monkeypatch):
    with needs_tool(TvmSparseError):
        counts.check_tools()
    monkeypatch.setattr(estimates, "count_instructions", lambda f, i, shape, c: (1, np.ones(shape)))
    with pytest.raises(AssertionError, match="small"):
        list(estimates.count_lines([small], [0.9]))


def test_the_command_prints_both_tables_and_that_they_are_estimates(
    estimates, counts, small, monkeypatch, tmp_path, capsys
):
    with needs_tool(TvmSparseError):
        llvm_mca.find_llvm_mca()
        counts.check_tools()
    monkeypatch.setattr(estimates, "LAYERS", [small])
    monkeypatch.setattr(estimates, "BOARDS", ["rpi3", "rpi4"])
    monkeypatch.setattr(sys, "argv", ["board_estimates", "--json", str(tmp_path / "all.json")])
    assert estimates.main() == 0
    out = capsys.readouterr().out
    assert "nothing here was measured on ARM" in out
    assert "| cortex-a53 | cortex-a72 |" in out
    assert out.count("| small, 90% zeros | ≥ ") == 1
    assert "x fewer)" in out
    record = json.loads((tmp_path / "all.json").read_text())
    assert [len(record["loops"]), len(record["counts"])] == [4, 4]


def test_a_missing_tool_is_one_line(estimates, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    llvm_mca.find_llvm_mca.cache_clear()
    monkeypatch.setattr(sys, "argv", ["board_estimates"])
    assert estimates.main() == 2
    assert capsys.readouterr().err.startswith("error: llvm-mca is not on the search path")


ZIG = ("-m", "ziglang", "cc", "-target", "riscv64-linux-musl", "-mcpu=baseline_rv64+v")


@pytest.mark.parametrize("sparsity", [0.9, 0.0])
def test_kernels_for_riscv_are_right_with_vectors_of_any_length(counts, tmp_path, sparsity):
    qemu = "qemu-riscv64-static"
    with needs_tool(LookupError):
        if not shutil.which(qemu) or not importlib.util.find_spec("ziglang"):
            raise LookupError(f"{qemu} or ziglang is not installed")
    cpu = replace(profile("riscv64"), cores=1)
    for kernel in (
        board_layers.linear_kernel(64, 96, 20, sparsity, cpu),
        board_layers.conv_kernel(16, 20, 3, sparsity, cpu),
    ):
        assert "vfmacc.vf" in assembly(kernel.func, cpu)
        program = counts.build_runner(kernel.func, cpu, [sys.executable, *ZIG], tmp_path)
        output = np.full(kernel.shape, np.nan, "float32")
        arguments = counts.write_arguments(tmp_path / "arguments", [*kernel.inputs, output])
        for bits in (128, 256, 512):
            vectors = f"rv64,v=true,vext_spec=v1.0,vlen={bits}"
            command = [qemu, "-cpu", vectors, program, arguments, "1"]
            result = subprocess.run(command, check=True, capture_output=True)
            seen = np.frombuffer(result.stdout, "float32").reshape(kernel.shape)
            seen = seen[..., : kernel.expected.shape[-1]]
            np.testing.assert_allclose(seen, kernel.expected, atol=1e-4)
