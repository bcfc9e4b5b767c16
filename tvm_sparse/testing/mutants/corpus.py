"""The files that are mutated; they are made anew, as libraries and records fit one machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_sparse import compiler
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.testing.mutants.seed_models import write_models
from tvm_sparse.tuning.tune import tune

_TRIALS = 2


@dataclass(frozen=True)
class Corpus:
    """The seeds in a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    """

    folder: Path

    @property
    def models(self) -> list[Path]:
        """The ONNX files."""
        return sorted(self.folder.glob("*.onnx"))

    @property
    def tuned(self) -> Path:
        """The model that the library, the records and the arrays belong to."""
        return self.folder / "perceptron.onnx"

    @property
    def library(self) -> Path:
        """A compiled library."""
        return self.folder / "library.so"

    @property
    def records(self) -> Path:
        """Tuning records."""
        return self.folder / "records.jsonl"

    @property
    def array(self) -> Path:
        """An input of the library."""
        return self.folder / "x.npy"

    @property
    def arrays(self) -> Path:
        """The same by name, as for calibration."""
        return self.folder / "x.npz"

    def write(self) -> None:
        """Write what is not there yet; tuning takes some seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_models(self.folder)
        x = np.random.default_rng(0).standard_normal((5, 24), "float32")
        np.save(self.array, x)
        np.savez(self.arrays, x=x)
        if not self.library.exists():
            compiler.compile(self.tuned, threads=1, records=RecordedPlans()).save(self.library)

    def write_records(self) -> None:
        """Write the records if they are not there yet."""
        if not self.records.exists():
            tune(self.tuned, threads=1, trials_per_region=_TRIALS, records=self.records)
