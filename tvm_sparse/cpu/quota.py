"""The quota of CPU time that a container has, as Linux's control groups of version 1 or 2 say it.

A container with a quota of 1.5 CPUs sees all cores of the machine. If its threads use up the quota
of a period, which is 100 ms by default, all of them stand still until the next one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


def cpu_quota(proc: Path = Path("/proc/self")) -> float | None:
    """Return how many CPUs' time this process may use; None if nothing limits it.

    Parameters
    ----------
    proc : Path
        The folder of the process in ``/proc``.
    """
    quotas = []
    with contextlib.suppress(OSError, ValueError):
        for folder, root in _groups(proc):
            # The limits of the groups around a group hold for it, too.
            for group in (folder, *folder.parents):
                quotas.append(_quota(group))
                if group == root:
                    break
    return min((quota for quota in quotas if quota), default=None)


def _groups(proc: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of each control group that counts CPU time, and the root of its mount."""
    own: dict[str, str] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for line in (proc / "mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = (system.split() + [""] * 3)[:3]
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller not in own or (controller and "cpu" not in options.split(",")):
            continue
        top, point = (_decoded(field) for field in mount.split()[3:5])
        # A container may see only its own groups: `top` is mounted on `point`.
        inner = own[controller]
        if inner == top or inner.startswith(f"{top.rstrip('/')}/"):
            inner = inner[len(top.rstrip("/")) :]
        yield Path(point) / inner.strip("/"), Path(point)


def _quota(group: Path) -> float | None:
    """Return the quota of one group, without those around it."""
    try:
        if (group / "cpu.max").exists():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            limit, period = ((group / name).read_text().strip() for name in names)
    except (OSError, ValueError):
        return None
    return int(limit) / int(period) if limit.isdecimal() and int(period) else None


def _decoded(field: str) -> str:
    """Return a path of mountinfo, in which spaces are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
