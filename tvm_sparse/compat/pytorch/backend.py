"""The backend of ``torch.compile``, which PyTorch finds by the entry points of this package."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm

import tvm_sparse
from tvm_sparse.compat.pytorch.freezing import dynamic_sizes, freeze, numbers_of
from tvm_sparse.errors import InputError, TvmSparseError, reason
from tvm_sparse.frontends.pytorch import import_program

if TYPE_CHECKING:
    import torch

_MOST_GRAPHS = 8
"""The sets of shapes for which one graph is compiled."""

_log = logging.getLogger("tvm_sparse")

Key = tuple[object, ...]


def compile_graph(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
) -> CompiledGraph:
    """Return a function that computes a graph of ``torch.compile``.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        The graph that PyTorch captured; what it could not capture stays in PyTorch.
    example_inputs : sequence
        What the graph will be called with. Parameters and buffers become constants of the compiled
        code, which is made again after they change.
    options : mapping, optional
        Arguments of `tvm_sparse.compile`, such as ``{"threads": 1, "precision": "auto"}``.

    Raises
    ------
    InputError
        If an option is none of `tvm_sparse.compile`.
    """
    settings = dict(options or {})
    unknown = settings.keys() - _OPTIONS
    if unknown:
        raise InputError(
            f"unknown option {min(unknown)!r}: the options are {', '.join(sorted(_OPTIONS))}"
        )
    return CompiledGraph(graph, example_inputs, settings)


_OPTIONS = {
    "target", "threads", "columns", "overlap", "records", "strict", "precision", "streams",
}  # fmt: skip


class CompiledGraph:
    """A graph of ``torch.compile``; the first call compiles it for all its dynamic sizes.

    Where kernels need sizes that are known, each set of shapes is compiled. PyTorch itself runs a
    call, after one warning, if the graph cannot be compiled, if gradients are asked for, if tensors
    are on another device, or after `_MOST_GRAPHS` sets of shapes.
    """

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        example_inputs: Sequence[Any],
        options: Mapping[str, Any],
    ) -> None:
        self._graph = graph
        self._numbers = numbers_of(graph)
        self._constants = tuple(
            i for i, value in enumerate(example_inputs) if i in self._numbers or _is_constant(value)
        )
        self._sizes = dynamic_sizes(graph)
        self._options = options
        self._lock = threading.Lock()
        self._engines: dict[Key, tvm_sparse.Engine | None] = {}
        self._warned: set[str] = set()

    def __call__(self, *args: Any) -> Any:
        """Return a tuple of tensors, as the graph does."""
        import torch

        if torch.is_grad_enabled() and any(
            isinstance(value, torch.Tensor) and value.requires_grad for value in args
        ):
            return self._in_pytorch(args, "gradients are asked for; use torch.no_grad()")
        engine = self._engine_for(args)
        if engine is None:
            return self._graph(*args)
        outputs = engine.run([_to_array(args[i]) for i in self._variables(args)])
        return tuple(torch.from_numpy(output) for output in outputs.values())

    def _variables(self, args: Sequence[Any]) -> list[int]:
        """Return which arguments are tensors that are no constants; others are numbers."""
        import torch

        return [
            i
            for i, value in enumerate(args)
            if i not in self._constants and isinstance(value, torch.Tensor)
        ]

    def _engine_for(self, args: Sequence[Any]) -> tvm_sparse.Engine | None:
        key = self._key(args)
        if key not in self._engines:
            with self._lock:
                if key not in self._engines and self._sizes:
                    engine = self._for_all_sizes(args)
                    self._sizes = self._sizes if engine else {}
                    key = self._key(args)
                    self._engines |= {key: engine} if engine else {}
                if key not in self._engines:
                    self._engines[key] = self._compile(args)
        return self._engines[key]

    def _key(self, args: Sequence[Any]) -> Key:
        return tuple(
            value.item()
            if i in self._numbers
            else _identity(value, i in self._constants, self._sizes.get(i, {}))
            for i, value in enumerate(args)
        )

    def _for_all_sizes(self, args: Sequence[Any]) -> tvm_sparse.Engine | None:
        """Return an engine for all dynamic sizes, planned for those of `args`; None if none is."""
        variables = self._variables(args)
        if any(args[i].device.type != "cpu" for i in variables):
            return None
        try:
            program = freeze(self._graph, args, variables, self._sizes)
            mod = import_program(program, "the graph")
            hints = {
                size.name: args[number].shape[axis]
                for number, param in zip(variables, mod["main"].params, strict=True)
                for axis, size in enumerate(param.ty.shape.values)
                if isinstance(size, tvm.tirx.Var)
            }
            engine = tvm_sparse.compile(mod, **self._options, hints=hints)
        except TvmSparseError as error:
            _log.warning("each set of shapes of a graph is compiled: %s", reason(error))
            return None
        if engine.report and engine.report.kept_by_tvm:
            _log.warning("each set of shapes of a graph is compiled, so that these are not slow")
            return None
        return engine

    def _compile(self, args: Sequence[Any]) -> tvm_sparse.Engine | None:
        import torch

        variables = self._variables(args)
        if len(self._engines) >= _MOST_GRAPHS:
            self._warn(f"it was compiled for {_MOST_GRAPHS} sets of shapes or of parameters")
            return None
        if any(isinstance(value, torch.Tensor) and value.device.type != "cpu" for value in args):
            self._warn("its tensors are not in the memory of the CPU")
            return None
        try:
            program = freeze(self._graph, args, variables, {})
            return tvm_sparse.compile(import_program(program, "the graph"), **self._options)
        except TvmSparseError as error:
            self._warn(reason(error))
            return None

    def _in_pytorch(self, args: Sequence[Any], why: str) -> Any:
        self._warn(why)
        return self._graph(*args)

    def _warn(self, why: str) -> None:
        if why not in self._warned:
            self._warned.add(why)
            _log.warning("PyTorch runs a graph of torch.compile, since %s", why)


def _is_constant(value: object) -> bool:
    """Return whether an input is a parameter or a buffer of the module that is compiled."""
    import torch

    return isinstance(value, torch.nn.Parameter) or hasattr(value, "_dynamo_static_input_type")


def _identity(value: Any, is_constant: bool, sizes: Mapping[int, str]) -> object:
    """Return what compiled code depends on: a constant's content, or a shape and a dtype."""
    import torch

    if not isinstance(value, torch.Tensor):
        return sizes.get(-1, value)
    if is_constant:
        return value.data_ptr(), 0 if value.is_inference() else value._version
    return tuple(sizes.get(axis, size) for axis, size in enumerate(value.shape)), value.dtype


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
