"""What an engine says about itself."""

from __future__ import annotations

import tvm_sparse
from tvm_sparse.compat.deepsparse import cpu
from tvm_sparse.compat.deepsparse.scheduler import Scheduler


class EngineProperties:
    """The properties of an engine that DeepSparse documents."""

    _path: str
    _engine: tvm_sparse.Engine
    _batch_size: int | None
    _cores: int
    _scheduler: Scheduler
    _nodes: int

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}:\n{self._properties()}"

    __str__ = __repr__

    def _properties(self) -> str:
        shown = {
            "onnx_file_path": self.model_path,
            "batch_size": self.batch_size,
            "num_cores": self.num_cores,
            "num_streams": self.num_streams,
            "scheduler": self.scheduler,
            "fraction_of_supported_ops": round(self.fraction_of_supported_ops, 4),
            "cpu_avx_type": self.cpu_avx_type,
            "cpu_vnni": self.cpu_vnni,
        }
        return "\n".join(f"\t{name}: {value}" for name, value in shown.items())

    @property
    def model_path(self) -> str:
        """The path of the model's file."""
        return self._path

    @property
    def batch_size(self) -> int | None:
        """The batch that was asked for; None if it is the model's own."""
        return self._batch_size

    @property
    def num_cores(self) -> int:
        """The cores that all requests together run on."""
        return self._cores

    @property
    def num_streams(self) -> int:
        """The requests that run at once."""
        return self._engine.streams

    @property
    def scheduler(self) -> Scheduler:
        """How requests are treated that come at the same time."""
        return self._scheduler

    @property
    def fraction_of_supported_ops(self) -> float:
        """The share of the model's nodes that are compiled; ONNX Runtime runs the others.

        It is 1 for a library without such nodes, and not a number for a library with them, which
        does not know how many others it has.
        """
        fallen = sum(len(fallback.nodes) for fallback in self._engine.info.fallbacks)
        if not fallen:
            return 1.0
        return 1 - min(fallen / self._nodes, 1.0) if self._nodes else float("nan")

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs, in the order of the model."""
        return [spec.name for spec in self._engine.inputs]

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the inputs; a dimension is -1 if the caller chooses it."""
        return [spec.numbers for spec in self._engine.inputs]

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, in the order of the model."""
        return [spec.name for spec in self._engine.outputs]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the outputs; a dimension is -1 if it is known only at run time."""
        return [spec.numbers for spec in self._engine.outputs]

    @property
    def cpu_avx_type(self) -> str:
        """The vector extension of this machine's processor, such as ``"avx512"``."""
        return cpu.cpu_details()[1]

    @property
    def cpu_vnni(self) -> bool:
        """Whether this machine's processor has instructions for products of 8-bit integers."""
        return cpu.cpu_details()[2]
