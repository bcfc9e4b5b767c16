"""A part of a model to tune, and the setting that all parts share."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.records.record import Key
from tvm_sparse.tuning.ranking import RegionCandidate
from tvm_sparse.tuning.task import Task

LEAST_TRIALS = 4
"""Trials that a part gets at least at the quick level, however little of the time it takes."""


@dataclass(frozen=True)
class Part:
    """A part of a model for which the tuner makes one choice by measuring.

    Attributes
    ----------
    kind : str
        What is chosen: ``"lanes"`` of a network on tokens, kernels of ``"layers"``, plans of
        ``"regions"``, or for a ``"model"`` whether it runs with these choices or without them.
    task : Task
        The plans to try, the cost model's choice first.
    count : int
        How many layers or regions of the model have this structure.
    shape : RegionShape, optional
        The stages of a region; None for other kinds.
    candidates : tuple of RegionCandidate
        The plans of a region with their predictions, in the order of the task.
    """

    kind: Literal["lanes", "layers", "regions", "model"]
    task: Task
    count: int = 1
    shape: RegionShape | None = None
    candidates: tuple[RegionCandidate, ...] = ()

    @property
    def name(self) -> str:
        """The operators and their sizes, for people."""
        return self.task.name


@dataclass(frozen=True)
class Setting:
    """The setting of a run, which all parts share.

    Attributes
    ----------
    target : str
        The name of the CPU profile.
    cpu : CpuProfile
        The processor of the target, with as many cores as threads are used.
    folder : Path
        The folder for the files of all parts.
    most : int
        The most trials of a part.
    hopeless : float
        How many times as long as the best candidate another one may be expected to take.
    """

    target: str
    cpu: CpuProfile
    folder: Path
    most: int
    hopeless: float

    def own_folder(self) -> Path:
        """Make a folder for one part."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def share(self, seconds: float, mean: float) -> int:
        """Return the most trials of a part, in proportion to its share of the model's time.

        Parameters
        ----------
        seconds : float
            Time of all layers or regions with this structure, as the cost model expects it.
        mean : float
            The mean of these times over all structures.
        """
        share = max(round(self.most * seconds / mean), min(self.most, LEAST_TRIALS))
        return min(self.most, share)


def name_of(key: Key) -> str:
    """Return the part of a key that people read."""
    return key.structure.partition(" #")[0]
