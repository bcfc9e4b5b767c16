"""How an engine treats requests that come at the same time."""

from __future__ import annotations

from enum import StrEnum

from tvm_sparse.compat.deepsparse.errors import InputValueError
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.cpu.threads import check_streams, check_threads


class Scheduler(StrEnum):
    """A way to treat requests that come at the same time.

    ``single_stream``, the default, runs one request after the other on all cores. ``multi_stream``
    and ``elastic``, which are the same here, run several at once, each on its share of the cores.
    """

    default = "single_stream"
    single_stream = "single_stream"
    multi_stream = "multi_stream"
    elastic = "elastic"

    @staticmethod
    def from_str(key: str) -> Scheduler:
        """Return the scheduler of a name, such as ``"sync"``, ``"async"`` or ``"multi_stream"``.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        try:
            return _NAMES[key.lower()]
        except (KeyError, AttributeError):
            raise InputValueError(
                f"unknown scheduler {key!r}: it is one of {', '.join(sorted(_NAMES))}"
            ) from None

    def __str__(self) -> str:
        return f"Scheduler.{'default' if self is Scheduler.default else self.value}"

    def streams(self, num_streams: int | None, cores: int) -> int:
        """Return how many requests run at once on a number of cores.

        By default, that is one a core, which has the best throughput.
        """
        if self is Scheduler.single_stream:
            return 1
        return num_streams or cores


_NAMES = {
    **dict.fromkeys(("default", "sync", "single", "single_stream"), Scheduler.single_stream),
    **dict.fromkeys(("async", "multi", "multi_stream"), Scheduler.multi_stream),
    "elastic": Scheduler.elastic,
}


def shares(
    num_cores: int | None, num_streams: int | None, scheduler: Scheduler | str | None
) -> tuple[Scheduler, int, int]:
    """Return the scheduler, the cores and the streams that a caller's arguments mean.

    Streams without a scheduler mean the one that runs several requests at once.

    Raises
    ------
    InputError
        If a number is none, or below 1.
    ValueError
        If there is no scheduler of that name.
    """
    check_threads(num_cores)
    if num_streams is not None:
        check_streams(num_streams)
    if scheduler is None:
        scheduler = Scheduler.multi_stream if (num_streams or 1) > 1 else Scheduler.default
    elif not isinstance(scheduler, Scheduler):
        scheduler = Scheduler.from_str(scheduler)
    cores = num_cores or usable_cores()
    return scheduler, cores, scheduler.streams(num_streams, cores)
