"""Nodes that TVM imports but that cannot be compiled are found, and ONNX Runtime runs them.

What the import cannot convert, it names by itself. A failure behind the import, in a pass, in
TVM's lowering or in LLVM, is an error of ours that names no node. Bisection over the nodes finds
the first one with which a beginning of the model can no longer be compiled.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import onnx
from onnx import external_data_helper

from tvm_sparse.errors import PLEASE_REPORT, CompilationError, ModelError, TvmSparseError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.canonical import canonical
from tvm_sparse.frontends.graph_importer import first_line, no_converter
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.nodes import qualified
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.submodel import ModelGraph

FAILED = "compiling it failed"
"""How the reason of such a node in `Engine.info.fallbacks` begins."""

MOST_ROUNDS = 8
"""The most times that a model is compiled with more nodes run by ONNX Runtime."""

Path_ = str | os.PathLike[str]
Shapes = Mapping[str, Sequence[int]] | None
Result = TypeVar("Result")

_log = logging.getLogger("tvm_sparse")


def until_compiled(
    model: Path_,
    shapes: Shapes,
    attempt: Callable[[Path_, Shapes, Mapping[str, str]], Result],
    attempt_part: Callable[[Path_, Shapes, Mapping[str, str]], object],
    no_fallback: str = "",
    distrusted: Mapping[str, str] | None = None,
) -> Result:
    """Compile a model, with each node at which that fails run by ONNX Runtime instead.

    Parameters
    ----------
    model, shapes
        The ONNX file and the shapes of its inputs, as `tvm_sparse.compile` takes them.
    attempt : callable
        Compiles the model, where ONNX Runtime runs the nodes that the mapping names. It
        raises a `CompilationError` if that fails.
    attempt_part : callable
        Compiles a file that holds a part of the model, in the same way.
    no_fallback : str
        Why ONNX Runtime may not run nodes; empty if it may.
    distrusted : mapping of str to str, optional
        Names of nodes that ONNX Runtime runs in any case, and why.

    Returns
    -------
    Result
        What `attempt` returns for the model.

    Raises
    ------
    ModelError
        If a node cannot be compiled, and ONNX Runtime may not or cannot run it.
    """
    known = dict(distrusted or {})
    for _ in range(MOST_ROUNDS):
        try:
            return attempt(model, shapes, known)
        except CompilationError as error:
            if isinstance(error.__cause__, MemoryError):
                raise
            whole = error
        found = _Bisection(model, shapes, attempt_part, known).failing()
        if found is None:
            raise whole
        node, others, failure = found
        why = first_line(failure.__cause__ or failure)
        said = f"node {node.name!r} ({qualified(node)}) cannot be compiled: {why}"
        if no_fallback or node.name in known:
            said = f"{said}. {PLEASE_REPORT}"
            raise ModelError(f"{said}; {no_fallback}" if no_fallback else said) from whole
        _log.warning("%s. %s. ONNX Runtime runs the node instead", said, PLEASE_REPORT)
        known |= dict.fromkeys([node.name, *others], f"{FAILED}: {why}")
    raise ModelError(f"{said}, and before it others. {PLEASE_REPORT}")


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Log nothing of parts of a model: the same was said of the model itself."""
    was_disabled, _log.disabled = _log.disabled, True
    try:
        yield
    finally:
        _log.disabled = was_disabled


class _Bisection:
    """Finds the node of a model at which compiling fails."""

    def __init__(
        self,
        model: Path_,
        shapes: Shapes,
        attempt: Callable[[Path_, Shapes, Mapping[str, str]], object],
        distrusted: Mapping[str, str],
    ) -> None:
        proto, folder = read_model(model)
        bind_shapes(proto, shapes)
        with without_warnings():
            self.model = canonical(proto, folder, lambda node: not no_converter(node))
        self.folder, self.attempt, self.distrusted = folder, attempt, distrusted

    def failing(self) -> tuple[onnx.NodeProto, list[str], CompilationError] | None:
        """Return the node, others that ONNX Runtime should run as well, and the failure.

        The others are the names of the nodes with its operator, if one of these was found before.
        The result is None if no part of the model fails.
        """
        try:
            external_data_helper.load_external_data_for_model(self.model, str(self.folder))
            found = self._position()
        except ValueError:  # the weights do not fit into one message
            return None
        if found is None:
            return None
        position, failure = found
        node = self.model.graph.node[position]
        kind = [n.name for n in self.model.graph.node if qualified(n) == qualified(node)]
        is_second = any(name in self.distrusted for name in kind if name != node.name)
        return node, kind if is_second else [], failure

    def _position(self) -> tuple[int, CompilationError] | None:
        graph = ModelGraph(self.model, self.folder)
        right, wrong = -1, len(graph.nodes) - 1
        failure = self._failure(graph, wrong)
        if failure is None:
            return None
        while wrong - right > 1:
            middle = (right + wrong) // 2
            found = self._failure(graph, middle)
            if found is None:
                right = middle
            else:
                wrong, failure = middle, found
        return wrong, failure

    def _failure(self, graph: ModelGraph, last: int) -> CompilationError | None:
        """Compile the nodes up to a position; return how that fails, if it does."""
        part = _beginning(graph, last)
        if not part.graph.output:
            return None
        with scratch_folder() as scratch:
            path = scratch / "part.onnx"
            onnx.save(part, str(path))
            try:
                with without_warnings():
                    self.attempt(path, None, self.distrusted)
            except CompilationError as error:
                return error
            except TvmSparseError:  # it does not stand alone: another part tells
                return None
        return None


def _beginning(graph: ModelGraph, last: int) -> onnx.ModelProto:
    """Return the nodes up to a position as a model, whose outputs are what others read."""
    part = onnx.ModelProto()
    part.CopyFrom(graph.model)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(graph.nodes[: last + 1])
    part.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for name, producer in graph.producer.items()
        if producer <= last
        and (name in graph.outputs or any(reader > last for reader in graph.readers[name]))
    )
    return part
