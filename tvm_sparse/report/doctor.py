"""What this machine can do for compiled models, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import tvm

from tvm_sparse.cpu.processors import KB, MB
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.cpu.quota import cpu_quota
from tvm_sparse.cpu.this_machine import cpu_flags, cpu_name, usable_cores
from tvm_sparse.errors import LibraryError, OutputError, RecordsError, TargetError
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.file import default_path
from tvm_sparse.runtime.linking import link_command
from tvm_sparse.version import __version__

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that matters.

    Attributes
    ----------
    what, found : str
        The thing, and what it is on this machine.
    state : str
        ``"ok"``, ``"note"`` if something could be better, or ``"missing"`` if something that most
        users need does not work.
    advice : str
        What to do; empty if there is nothing to do.
    """

    what: str
    found: str
    state: State = "ok"
    advice: str = ""


def examine() -> list[Finding]:
    """Return what this machine can do, and what is missing."""
    return [finding for examiner in _EXAMINERS for finding in examiner()]


def _versions() -> Iterator[Finding]:
    found = (
        f"tvm-sparse {__version__}, TVM {tvm.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}"
    )
    yield Finding("versions", found)


def _processor() -> Iterator[Finding]:
    try:
        cpu = native()
    except TargetError as error:
        yield Finding(
            "processor", f"{cpu_name()}: {error}", "missing",
            "compile for another machine with --target; this one cannot run the result",
        )  # fmt: skip
        return
    yield Finding("processor", f"{cpu_name()} ({cpu.mcpu} to LLVM)")
    shared = f", L3 {cpu.l3_bytes // MB} MB" if cpu.l3_bytes else ""
    caches = f"L1 {cpu.l1_bytes // KB} KB, L2 {cpu.l2_bytes // KB} KB of a core{shared}"
    if cpu.measured:
        yield Finding("caches", f"{caches}; clock and bandwidths are measured")
    else:
        yield Finding(
            "caches", f"{caches}; clock and bandwidths are typical ones", "note",
            "`tvm-sparse targets --measure` takes ten seconds; plans then fit this machine",
        )  # fmt: skip
    yield from _units(cpu)


def _units(cpu: CpuProfile) -> Iterator[Finding]:
    """Yield the units that our kernels use."""
    flags = cpu_flags()
    yield Finding("vectors", f"{cpu.vector_bits} bits: {cpu.vector_bits // 32} floats at once")
    if cpu.has_half:
        matrix = "; the matrix unit AMX multiplies dense layers" if cpu.has_matrix_unit else ""
        yield Finding(
            "float16", f"computed by the processor{matrix}", "note",
            "`--precision auto` computes in float16, twice as many at once; float32 is the default",
        )  # fmt: skip
    else:
        yield Finding("float16", "the processor does not compute with it: models run in float32")
    names = [name for name in ("avx512_vnni", "avx_vnni", "asimddp", "i8mm") if name in flags]
    found = f"products of 8-bit integers: {', '.join(names)}" if names else "no fast products"
    yield Finding("int8", found)


def _cores() -> Iterator[Finding]:
    all_cores, allowed = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    quota, usable = cpu_quota(), usable_cores()
    parts = [f"{usable} usable of {all_cores}"]
    if allowed < all_cores:
        parts.append(f"the affinity of this process allows {allowed}")
    if quota is not None:
        parts.append(f"a quota of {quota:g} CPUs")
    is_part = quota is not None and quota < usable
    yield Finding(
        "cores", "; ".join(parts), "note" if is_part else "ok",
        "threads stand still when the quota of a period is used up: give whole CPUs"
        if is_part else "",
    )  # fmt: skip


def _linker() -> Iterator[Finding]:
    try:
        yield Finding("linker", " ".join(link_command(platform.machine())))
    except LibraryError as error:
        yield Finding(
            "linker", str(error), "missing",
            "models can be compiled and run, but not saved: `pip install ziglang` or gcc",
        )  # fmt: skip


def _records() -> Iterator[Finding]:
    try:
        path = default_path()
        RecordedPlans.read(None)
    except (OutputError, RecordsError) as error:
        yield Finding("records", str(error), "note")
        return
    if path.exists():
        yield Finding("records", f"{path} has what `tvm-sparse tune` found")
    else:
        yield Finding(
            "records", "none: plans come from the cost model", "note",
            "`tvm-sparse tune model.onnx` measures, and compile uses what it finds",
        )  # fmt: skip


def _packages() -> Iterator[Finding]:
    used = {
        "onnxruntime": "verify, and nodes that are not compiled",
        "torch": 'torch.compile(model, backend="tvm_sparse")',
        "ziglang": "linking for other machines",
        "matplotlib": "tune --plot",
    }
    there, absent = [], []
    for name, use in used.items():
        if importlib.util.find_spec(name) is None:
            absent.append(f"{name} ({use})")
        else:
            there.append(f"{name} {importlib.metadata.version(name)}")
    yield Finding("packages", ", ".join(there) or "none of the optional ones")
    if absent:
        yield Finding("", f"not installed: {'; '.join(absent)}")


_EXAMINERS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _versions, _processor, _cores, _linker, _records, _packages,
)  # fmt: skip
