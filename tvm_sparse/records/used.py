"""What a compilation took from the tuning records, and how it says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UsedRecords:
    """The measured choices that went into a compiled model.

    Attributes
    ----------
    source : str
        The file of the records, for people; empty if there is none.
    lanes : int, optional
        The lanes of panels of tokens, if a record gave them.
    layers : frozenset of str
        The keys of the layers whose kernels are from records.
    is_refused : bool
        Whether the model was measured to be faster without the records, so that none was used.
    by_records, by_cost_model : int
        How many regions run under a plan from the records, and under one of the cost model.
    """

    source: str = ""
    lanes: int | None = None
    layers: frozenset[str] = frozenset()
    is_refused: bool = False
    by_records: int = 0
    by_cost_model: int = 0

    @property
    def are_used(self) -> bool:
        """Whether there are any."""
        return bool(self.lanes or self.layers or self.by_records)

    def with_regions(self, regions: Sequence[Mapping[str, Any]]) -> UsedRecords:
        """Return the same with the regions counted by who planned them.

        Parameters
        ----------
        regions : sequence of mapping
            The regions as the module attribute `tvm_sparse.regions` describes them.
        """
        sources = [str(region["source"]) for region in regions]
        planned = [
            source
            for source, region in zip(sources, regions, strict=True)
            if "column_rows" in region  # an operator by itself has no plan
        ]
        return dataclasses.replace(
            self, by_records=sources.count("record"), by_cost_model=planned.count("cost model")
        )

    def __str__(self) -> str:
        """Return in one line what is from records, and how many regions the cost model planned."""
        if self.is_refused:
            return f"{self._columns()}; as a whole faster than with {self.source}"
        measured = [f"{self.lanes} lanes"] if self.lanes else []
        if self.layers:
            s = "s" if len(self.layers) > 1 else ""
            measured.append(f"kernels of {len(self.layers)} kind{s} of layer{s}")
        found = f"; {' and '.join(measured)} by {self.source}" if measured else ""
        return self._columns() + found

    def _columns(self) -> str:
        if not self.by_records + self.by_cost_model:
            return "no tensor columns"
        by = []
        if self.by_records:
            by.append(f"{self.by_records} by {self.source}")
        if self.by_cost_model:
            by.append(f"{self.by_cost_model} by the cost model")
        return f"tensor columns planned: {', '.join(by)}"
