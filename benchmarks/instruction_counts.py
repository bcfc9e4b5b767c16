"""Counts the instructions that a kernel for 64-bit ARM executes, under qemu.

The kernel is linked with kernel_runner.c into a static program. qemu translates a program piece by
piece. It logs the instructions of each piece, and every execution of a piece, so that the count is
exact. The program's other instructions are subtracted: one call is the difference between a run of
two calls and a run of one.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import libinfo
from tvm_ffi.libinfo import find_dlpack_include_path, find_include_path

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import ToolError
from tvm_sparse.runtime.linking import link_command

QEMU = "qemu-aarch64-static"
RUNNER = Path(__file__).with_name("kernel_runner.c")
TYPE_CODES = {"i": 0, "u": 1, "f": 2}
"""DLPack's codes of element types, by the `kind` of NumPy's types."""


def count_instructions(
    func: tvm.tirx.PrimFunc, inputs: Sequence[NDArray], shape: Sequence[int], cpu: CpuProfile
) -> tuple[int, NDArray[np.float32]]:
    """Return how many instructions one call takes on one core, and its output.

    Parameters
    ----------
    func : PrimFunc
        A kernel whose last parameter is its output.
    inputs : sequence of array
        The other parameters.
    shape : sequence of int
        Shape of the output, which is float32.
    cpu : CpuProfile
        A processor of 64-bit ARM.

    Raises
    ------
    ToolError
        If qemu is missing.
    LibraryError
        If there is no C compiler for 64-bit ARM.
    """
    check_tools()
    output = np.full(shape, np.nan, "float32")
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as name:
        folder = Path(name)
        program = build_runner(func, cpu, link_command("aarch64", "gcc"), folder)
        arguments = write_arguments(folder / "arguments", [*inputs, output])
        counts = {calls: _executed(program, arguments, calls) for calls in (1, 2)}
        result = subprocess.run([QEMU, program, arguments, "1"], check=True, capture_output=True)
    return counts[2] - counts[1], np.frombuffer(result.stdout, "float32").reshape(shape)


def build_runner(
    func: tvm.tirx.PrimFunc, cpu: CpuProfile, compiler: Sequence[str], folder: Path
) -> Path:
    """Link a kernel, compiled for `cpu`, with kernel_runner.c into a static program in a folder."""
    module = tvm.IRModule({"kernel": func.with_attr("global_symbol", "kernel")})
    kernel, program = folder / "kernel.o", folder / "runner"
    tvm.compile(module, target=cpu.to_target()).mod.write_to_file(str(kernel))
    paths = (find_include_path(), find_dlpack_include_path(), libinfo.find_include_path())
    includes = [f"-I{path}" for path in paths]
    command = [*compiler, "-O1", "-static", *includes, RUNNER, kernel, "-lm", "-o", program]
    subprocess.run(command, check=True)
    return program


def check_tools() -> None:
    """Return if all tools are there that counting needs.

    Raises
    ------
    ToolError
        If qemu is missing.
    LibraryError
        If there is no C compiler for 64-bit ARM.
    """
    if not shutil.which(QEMU):
        raise ToolError(f"{QEMU} is not on the search path; `apt-get install qemu-user-static`")
    link_command("aarch64", "gcc")


def write_arguments(path: Path, arrays: Sequence[NDArray]) -> Path:
    """Write a kernel's arguments as kernel_runner.c reads them, the output last; returns `path`."""
    with path.open("wb") as file:
        file.write(np.int32(len(arrays)).tobytes())
        for array in arrays:
            code = TYPE_CODES[array.dtype.kind]
            file.write(np.array([code, array.itemsize * 8, array.ndim], "int32").tobytes())
            file.write(np.array(array.shape, "int64").tobytes())
            file.write(np.ascontiguousarray(array).tobytes())
    return path


def _executed(program: Path, arguments: Path, calls: int) -> int:
    """Return how many instructions a run of the program takes."""
    log = program.with_suffix(".log")
    # Unchained, every piece returns to qemu's loop, which logs it.
    command = [QEMU, "-d", "in_asm,exec,nochain", "-D", log, program, arguments, str(calls)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with log.open() as lines:
        total = sum_of_log(lines)
    log.unlink()
    return total


def sum_of_log(lines: Iterable[str]) -> int:
    """Return the instructions that a log of qemu's translations and executions tells of."""
    sizes: dict[int, int] = {}
    runs: collections.Counter[int] = collections.Counter()
    start = None
    for line in lines:
        if line.startswith("IN:"):
            start = None
        elif found := re.match(r"0x([0-9a-f]+):\s", line):
            start = int(found[1], 16) if start is None else start
            sizes[start] = sizes.get(start, 0) + 1
        elif found := re.match(r"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/", line):
            runs[int(found[1], 16)] += 1
    return sum(sizes[place] * times for place, times in runs.items())
