"""The facts that the system tells about this machine: processor, usable cores, cache sizes."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

from tvm_sparse.cpu.processors import KB, MB
from tvm_sparse.cpu.quota import cpu_quota


def cpu_name() -> str:
    """Return the name that this machine's processor gives itself."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the names that Linux has for what the first processor can do; empty if unknown."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            # Many processors make a long text, and a slow one.
            first = file.read(1 << 14).split("\n\n")[0]
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", first, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its quota.

    Part of a core counts as one: threads that wait for the next period of a quota lose less than
    a core that is never used.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return cores if quota is None else min(cores, math.ceil(quota))


def cache_sizes() -> dict[int, int]:
    """Return the bytes of core 0's data caches by level, as far as Linux tells."""
    sizes: dict[int, int] = {}
    units = {"K": KB, "M": MB}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            sizes[int(level)] = int(size[:-1]) * units[size[-1]]
    return sizes
