"""Engines of several models that share the cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import BoundedSemaphore

import numpy as np

from tvm_sparse.compat.deepsparse.engine import Engine
from tvm_sparse.compat.deepsparse.models import Shapes
from tvm_sparse.compat.deepsparse.scheduler import Scheduler, shares


class Context:
    """Cores that engines of several models share.

    Parameters
    ----------
    num_cores : int, optional
        The cores; by default all that this process may use.
    num_streams : int, optional
        Requests of all models together that run at once; by default one a core.
    """

    def __init__(self, num_cores: int | None = None, num_streams: int | None = None) -> None:
        self._scheduler, self._cores, self._streams = shares(
            num_cores, num_streams, Scheduler.elastic
        )
        self._slots = BoundedSemaphore(self._streams)

    @property
    def value(self) -> BoundedSemaphore:
        """What a request holds while it runs."""
        return self._slots

    @property
    def num_cores(self) -> int:
        """The cores."""
        return self._cores

    @property
    def num_streams(self) -> int:
        """Requests of all models together that run at once."""
        return self._streams

    @property
    def scheduler(self) -> Scheduler:
        """How requests are treated that come at the same time."""
        return self._scheduler


class MultiModelEngine(Engine):
    """An engine whose requests share cores with those of other models.

    Parameters
    ----------
    model, batch_size, input_shapes, cached_outputs
        As for `Engine`.
    context : Context
        The cores, which other engines have, too.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        batch_size: int | None,
        context: Context,
        input_shapes: Shapes | None = None,
        cached_outputs: Sequence[bool] | None = None,
    ) -> None:
        self._context = context
        super().__init__(
            model,
            batch_size,
            context.num_cores,
            context.num_streams,
            context.scheduler,
            input_shapes,
            cached_outputs,
        )

    def mapped_run(self, inp: Sequence[np.ndarray], val_inp: bool = True) -> dict[str, np.ndarray]:
        """Run a batch when the other models leave cores to it, and return the outputs by name."""
        with self._context.value:
            return super().mapped_run(inp, val_inp)
