"""Finds the node of a model because of which an output differs from ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import external_data_helper, helper

from tvm_sparse.errors import TvmSparseError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.nodes import needed, reads
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.verification.comparison import Arrays, Reference, Refused

MOST_STEPS = 40
"""The most parts of a model that are compiled to find the node that differs."""

Compile = Callable[[Path], Engine]
"""Compiles an ONNX file with static shapes, as the model that is verified was compiled."""


class Bisection:
    """Finds the first node of a model whose result differs in float32."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        inputs: Arrays,
        compile_part: Compile,
    ) -> None:
        self.model, self.inputs, self.compile_part = model, inputs, compile_part
        self.folder = folder
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.differs: dict[str, bool] = {}

    def blame(self, output: str) -> tuple[str, str]:
        """Return a clause that names the node because of which an output differs, and its name."""
        try:
            external_data_helper.load_external_data_for_model(self.model, str(self.folder))
            order = self._order(output)
        except ValueError as error:  # weights do not fit into one message
            return f"the node is not known ({error})", ""
        self.differs[output] = True
        tensor = self._first_different(order)
        while True:  # a tensor of another branch may differ, too
            read = [name for name in reads(self.makers[tensor]) if name in self.makers]
            other = next((name for name in read if self._is_different(name)), None)
            if other is None:
                break
            tensor = other
        node = self.makers[tensor]
        return f"the first node that differs is {node.name!r} ({node.op_type})", node.name

    def _first_different(self, order: Sequence[str]) -> str:
        """Return a tensor that differs, whose predecessor in the order does not."""
        right, wrong = -1, len(order) - 1
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if self._is_different(order[middle]):
                wrong = middle
            else:
                right = middle
        return order[wrong]

    def _order(self, output: str) -> list[str]:
        """Return the tensors that an output depends on and that depend on an input."""
        nodes = needed(self.model.graph.node, [output])
        wanted, varying = {output}.union(*map(reads, nodes)), set(self.inputs)
        order = []
        for node in nodes:
            if varying.intersection(reads(node)):
                varying.update(node.output)
                order += [name for name in node.output if name in wanted]
        return order

    def _is_different(self, tensor: str) -> bool:
        if tensor not in self.differs and len(self.differs) < MOST_STEPS:
            self.differs[tensor] = self._try(tensor)
        return self.differs.get(tensor, False)

    def _try(self, tensor: str) -> bool:
        """Compile the model up to a tensor; return whether the tensor differs."""
        from tvm_sparse.frontends.failures import without_warnings  # needs TVM's compiler

        part = self._part(tensor)
        inputs = {value.name: self.inputs[value.name] for value in part.graph.input}
        reference = Reference(part, self.folder)
        try:
            (value,) = reference.run(inputs).values()
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            part.graph.output[0].CopyFrom(helper.make_tensor_value_info(tensor, dtype, value.shape))
            with scratch_folder() as scratch:
                path = scratch / "part.onnx"
                onnx.save(part, str(path))
                with without_warnings():
                    actual = self.compile_part(path).run(inputs)
            found = reference.compare(inputs, actual)
            return any(one.is_error for one in found)
        except (Refused, TvmSparseError, AttributeError, KeyError, ValueError):
            return False  # no tensor, or nothing that stands alone: another one tells

    def _part(self, tensor: str) -> onnx.ModelProto:
        """Return the model up to a tensor, which is its only output."""
        nodes = needed(self.model.graph.node, [tensor])
        wanted = {tensor}.union(*map(reads, nodes))
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        graph = part.graph
        del graph.node[:], graph.output[:], graph.initializer[:], graph.input[:]
        graph.node.extend(nodes)
        graph.output.append(onnx.ValueInfoProto(name=tensor))
        graph.initializer.extend(t for t in self.model.graph.initializer if t.name in wanted)
        graph.input.extend(v for v in self.model.graph.input if v.name in wanted)
        return part
