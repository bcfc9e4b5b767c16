"""TVM's importer of ONNX graphs, reading weights from their file and going on after failures."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends import node_values
from tvm_sparse.frontends.converters.table import INNER, OURS, convert_node, operator_name
from tvm_sparse.frontends.element_types import ELEMENT_TYPES, element_type
from tvm_sparse.frontends.fallback import DOMAIN
from tvm_sparse.frontends.nodes import reads
from tvm_sparse.frontends.onnx_file import tensor_array
from tvm_sparse.frontends.onnx_recurrent import RECURRENT, convert_recurrent
from tvm_sparse.frontends.submodel import Submodel
from tvm_sparse.frontends.value_types import ValueType
from tvm_sparse.specs import RUN_SUBMODEL

Types = Mapping[str, ValueType]


class NotConverted(Exception):
    """Nodes of the graph could not be converted.

    Attributes
    ----------
    reasons : dict of int to str
        Why, for each of these nodes by its position; there may be more.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(str(dict(reasons)))
        self.reasons = dict(reasons)


class GraphImporter(onnx_frontend.ONNXGraphImporter):
    """TVM's importer, made for one graph.

    Parameters
    ----------
    folder : Path
        The folder that the locations of external weights are relative to.
    types : callable
        Returns the types of the values, or None: asked to go on behind a node not converted.
    standard : mapping of str to TypeProto
        The types that the ONNX standard gives to values, as far as they are known. A node of which
        a converter makes another type counts as not converted.
    submodels : mapping of str to Submodel, optional
        The parts of the model that ONNX Runtime runs.
    weights : dict of str to tensor or None, optional
        Initializers by name that several importers share; None until one of them reads it.
    """

    def __init__(
        self,
        folder: Path,
        types: Callable[[], Types | None],
        standard: Mapping[str, onnx.TypeProto],
        submodels: Mapping[str, Submodel] | None = None,
        weights: dict[str, tvm.runtime.Tensor | None] | None = None,
    ) -> None:
        super().__init__(shape_dict={}, dtype_dict={}, keep_params_in_input=False)
        self._folder = folder
        self._types = types
        self._standard = standard
        self._submodels = submodels or {}
        self._weights = {} if weights is None else weights
        self._building = False
        self._foreign: dict[str, str] = {}  # values of element types that are not compiled

    def convert(self, model: onnx.ModelProto) -> tvm.IRModule:
        """Return the module of a model.

        Raises
        ------
        NotConverted
            If nodes cannot be converted.
        ModelError
            If something else cannot.
        """
        self._shape = node_values.input_shapes(model.graph)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        with warnings.catch_warnings(action="ignore"), _without_prints():
            try:
                return self.from_onnx(model.graph, opset)
            # A converter raises the errors of any Python or C++ code that it calls.
            except Exception as error:
                if self._building:
                    self.bb._end_block()  # or its destructor complains on stderr
                if isinstance(error, NotConverted):
                    raise
                raise ModelError(first_line(error)) from error

    def _parse_graph_initializers(self, graph: onnx.GraphProto) -> None:
        kept = onnx.GraphProto()
        for tensor in graph.initializer:
            if tensor.data_type in ELEMENT_TYPES:
                kept.initializer.append(tensor)
            else:
                self._foreign[tensor.name] = element_type(tensor.data_type)
        super()._parse_graph_initializers(kept)

    def _parse_array(self, tensor_proto: onnx.TensorProto) -> tvm.runtime.Tensor:
        value = self._weights.get(tensor_proto.name)
        if value is None:
            value = tvm.runtime.tensor(tensor_array(tensor_proto, self._folder))
            if tensor_proto.name in self._weights:
                self._weights[tensor_proto.name] = value
        return value

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        """Leave it to `_construct_nodes`, which finds all of them."""

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        self._building = True
        reasons: dict[int, str] = {}
        unknown: set[str] = set()
        for position, node in enumerate(graph.node):
            if not unknown.isdisjoint(reads(node)):
                unknown.update(node.output)
                continue
            if node.domain == DOMAIN:
                self._call_submodel(node)
                continue
            reason = no_converter(node) or node_values.foreign_operand(self._foreign, node)
            try:
                if not reason:
                    super()._construct_nodes(onnx.GraphProto(node=[_qualified(node)]))
                    reason = node_values.foreign_result(self._nodes, node)
                    reason = reason or self._open_shape(node) or self._other_type(node)
                    node_values.empty_results(self._nodes, node)
            except Exception as error:
                reason = first_line(error)
            if not reason or node_values.are_empty(self._nodes, node, self._types() or {}):
                continue
            reasons[position] = reason
            if node.op_type == "If":  # its branches may have left the builder within them
                break
            if not self._stand_in(node):
                unknown.update(node.output)
        if reasons:
            raise NotConverted(reasons)

    def _open_shape(self, node: onnx.NodeProto) -> str:
        """Return why a node had better fall back, where others do, though it was converted.

        What ONNX Runtime gives has no values at compile time, and shapes that are computed from
        them are open. What branches of several shapes give has none that compiled code could name.
        """
        if not self._submodels and node.op_type != "If":
            return ""
        for name in node.output:
            value = self._nodes.get(name)
            ty = value.ty if isinstance(value, relax.Expr) else None
            if isinstance(ty, relax.TensorType) and not (
                ty.shape is not None and all(isinstance(size, tvm.tirx.IntImm) for size in ty.shape)
            ):
                return "the shape of its result is known only at run time"
        return ""

    def _other_type(self, node: onnx.NodeProto) -> str:
        """Return how the converted outputs of a node differ from the ONNX standard."""
        for name in node.output:
            value, standard = self._nodes.get(name), self._standard.get(name)
            found = value.ty if isinstance(value, relax.Expr) else None
            if isinstance(found, relax.TensorType) and standard is not None:
                difference = node_values.type_difference(found, standard)
                if difference:
                    return f"TVM makes {name!r} {difference}"
        return ""

    def _stand_in(self, node: onnx.NodeProto) -> bool:
        """Bind the outputs of a node that is not converted; return whether that was possible."""
        types = self._types()
        outputs = [name for name in node.output if name]
        if types is None or not all(types[name].is_static for name in outputs):
            return False
        for name in outputs:
            ty = relax.TensorType(types[name].shape, types[name].dtype)
            self._nodes[name] = self.bb.emit(relax.call_pure_packed(RUN_SUBMODEL, ty_args=ty))
        return True

    def _call_submodel(self, node: onnx.NodeProto) -> None:
        submodel = self._submodels[node.attribute[0].s.decode()]
        content = relax.const(np.frombuffer(submodel.content, "uint8"))
        types = [
            relax.TensorType(spec.shape, spec.dtype)
            if -1 not in spec.shape
            else relax.TensorType(dtype=spec.dtype, ndim=len(spec.shape))
            for spec in submodel.outputs
        ]
        call = relax.call_pure_packed(
            RUN_SUBMODEL,
            tvm.ir.StringImm(submodel.key),
            content,
            *(node_values.tensor(self._nodes[name]) for name in node.input),
            ty_args=types[0] if len(types) == 1 else relax.TupleType(types),
        )
        result = self.bb.emit(call, _variable(node.name))
        for position, spec in enumerate(submodel.outputs):
            self._nodes[spec.name] = (
                result if len(types) == 1 else self.bb.emit(relax.TupleGetItem(result, position))
            )

    def _convert_operator(
        self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        name = _variable(attrs["tvm_custom"]["name"])
        if op_name in RECURRENT:
            return convert_recurrent(self.bb, op_name, inputs, attrs, name)
        scope = [self._nodes, self._params]

        def bind(result: Any) -> Any:
            return self._bind(result, name, {})

        return convert_node(self.bb, op_name, inputs, attrs, opset, scope, bind)

    def _convert_subgraph(self, bb: relax.BlockBuilder, graph: onnx.GraphProto) -> relax.SeqExpr:
        """Return a branch, whose nodes are bound inside of it: they run if the branch is taken."""
        bb._begin_binding_block()
        try:
            result = bb.emit(super()._convert_subgraph(bb, graph))
        finally:
            block = bb._end_block()
        return relax.SeqExpr([block], result)

    def _bind(self, expr: Any, name: str, bound: dict[relax.Expr, relax.Expr]) -> Any:
        """Bind the calls in `expr` to variables called as the node, for readable reports."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._bind(field, name, bound) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            # TVM's converters take what is neither a call nor a variable for a constant.
            whole = self._bind(expr.tuple_value, name, bound)
            return self.bb.emit(relax.TupleGetItem(whole, expr.index), name)
        if not isinstance(expr, relax.Call):
            return self.bb.normalize(expr) if isinstance(expr, relax.Expr) else expr
        if expr not in bound:
            args = [self._bind(arg, name, bound) for arg in expr.args]
            call = relax.Call(expr.op, args, expr.attrs, expr.ty_args)
            call = self.bb.normalize(call)
            tensor = isinstance(call.ty, relax.TensorType)
            bound[expr] = self.bb.emit(call, name) if tensor else call
        return bound[expr]


@contextlib.contextmanager
def _without_prints() -> Iterator[None]:
    """Drop what TVM prints of a node that it fails at; the program's standard output stays."""
    names = vars(onnx_frontend)
    names["print"] = lambda *_: None
    try:
        yield
    finally:
        names.pop("print", None)


def no_converter(node: onnx.NodeProto) -> str:
    """Return why no converter exists for the operator of a node; empty if there is one."""
    known = {"If", "Constant", *OURS, *INNER, *RECURRENT, *onnx_frontend._get_convert_map()}
    if operator_name(node) in known:
        return ""
    if node.op_type in ("Loop", "Scan") and node.domain in ("", "ai.onnx"):
        return (
            "its length is known only at run time, its iterations are too many or too large to be "
            "written out, or they have nodes that cannot be compiled"
        )
    return "it has no converter in TVM"


def _qualified(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node whose operator has the name that tables of converters give it."""
    name = operator_name(node)
    if name == node.op_type:
        return node
    named = onnx.NodeProto()
    named.CopyFrom(node)
    named.op_type = name
    return named


def _variable(node: str) -> str:
    return re.sub(r"\W+", "_", node).strip("_")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of TVM or ONNX Runtime says."""
    text = re.sub(r"In ir\.Op\(.*?support_level=\d+\), ", "", str(error))
    text = re.sub(r"ir\.Op\(.*?name=\"([^\"]+)\".*?support_level=\d+\)", r"\1", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
