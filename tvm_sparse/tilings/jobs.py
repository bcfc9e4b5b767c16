"""How evenly the jobs of a layer keep the cores busy."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile


def waiting(jobs: int, cpu: CpuProfile) -> float:
    """Return the time of all cores until the last of equal jobs ends, as a multiple of the work.

    It is 1 if every core gets the same number of jobs; three jobs on two cores take 4 / 3.
    """
    return -(-jobs // cpu.cores) * cpu.cores / jobs
