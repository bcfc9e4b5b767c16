"""ONNX file => Relax module with static shapes and its weights as constants.

The graph is simplified first by ONNX Runtime's basic offline optimizations (constant folding,
dead nodes, normalization folding): raw exports hold shape arithmetic that TVM cannot import.
If ONNX Runtime refuses the model, or TVM refuses the simplified one, TVM gets the model as it is.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_sparse.compile_report import FILE_LAYERS
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.canonical import canonical
from tvm_sparse.frontends.canonical.checker import fault
from tvm_sparse.frontends.canonical.empty_operands import drop_empty_operands
from tvm_sparse.frontends.converters.table import convert_node
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.frontends.onnx_file import bind_shapes, read_model, tensor_array
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.frontends.onnx_recurrent import RECURRENT, convert_recurrent

# These optimizers of ONNX Runtime hide what the passes look for: the first wraps matrix products in
# reshapes, the second moves transposes out of attention.
_DISABLED_OPTIMIZERS = ["MatMulAddFusion", "TransposeOptimizer"]


_TAKE = tvm.ir.Op.get("relax.take")


def import_onnx(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> ImportedModel:
    """Import an ONNX model; its file is never changed.

    Parameters
    ----------
    path : str or PathLike
        The ``.onnx`` file (weights may lie in external files next to it), or its folder.
    shapes : mapping of str to sequence of int, optional
        Shapes of the inputs that have dynamic dimensions.

    Returns
    -------
    ImportedModel

    Raises
    ------
    ModelError
        If the file is no whole ONNX model, or TVM cannot import one of its nodes.
    InputError
        If `shapes` does not fit the model or leaves a dimension open.
    """
    model, folder = read_model(path)
    bind_shapes(model, shapes)
    model = canonical(model, folder)
    layers = [layer.to_json() for layer in file_layers(model, folder)]
    serialized = model.SerializeToString()
    del model  # weights are hundreds of megabytes: never more copies than needed
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as scratch:
        model, mod = _import(serialized, folder, Path(scratch))
    inputs, outputs = (
        [value.name for value in values] for values in (model.graph.input, model.graph.output)
    )
    main = mod["main"]
    output_types = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    return ImportedModel(
        mod.with_attr(FILE_LAYERS, layers),
        tuple(map(tensor_spec, inputs, (param.ty for param in main.params))),
        tuple(map(tensor_spec, outputs, output_types)),
    )


def _import(serialized: bytes, folder: Path, scratch: Path) -> tuple[onnx.ModelProto, tvm.IRModule]:
    """Return the model that TVM could import, simplified if possible, and its module."""
    version = f"ONNX Runtime {onnxruntime.__version__}"
    failure: ModelError | None = None
    try:
        model = _simplify(serialized, folder, scratch)
    except _Refused as refusal:
        if wrong := fault(onnx.load_from_string(serialized)):
            raise ModelError(f"not a valid model: {refusal} (onnx.checker: {wrong})") from None
        tried = f"not simplified, since {version} said: {refusal}"
    else:
        tried = f"simplified by {version}"
        try:
            return model, _GraphImporter(scratch, tried).convert(model)
        except ModelError as error:
            # ONNX Runtime writes out operators that TVM can convert, such as GroupNormalization.
            failure = error
    model = onnx.load_from_string(serialized)
    try:
        return model, _GraphImporter(folder, tried).convert(model)
    except ModelError as error:
        raise failure or error from error.__cause__


class _Refused(Exception):
    """ONNX Runtime's reason for not simplifying a model."""


def _simplify(serialized: bytes, folder: Path, scratch: Path) -> onnx.ModelProto:
    """Return the simplified model, whose large weights lie in a file in `scratch`."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(scratch / "model.onnx")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Large weights stay out of the protobuf message, whose limit is 2 GB.
    for key, value in {
        "session.model_external_initializers_file_folder_path": str(folder),
        "session.optimized_model_external_initializers_file_name": "weights.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    }.items():
        options.add_session_config_entry(key, value)
    try:
        onnxruntime.InferenceSession(
            serialized,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_DISABLED_OPTIMIZERS,
        )
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise _Refused(_first_line(error)) from None
    simple = onnx.load(options.optimized_model_filepath, load_external_data=False)
    simple = drop_empty_operands(simple)
    foreign = {node.domain for node in simple.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise _Refused(f"it needs operators of {', '.join(sorted(foreign))}")
    return simple


class _GraphImporter(onnx_frontend.ONNXGraphImporter):
    """TVM's importer, reading weights straight from their file and naming the failing node."""

    def __init__(self, folder: Path, tried: str) -> None:
        super().__init__(shape_dict={}, dtype_dict={}, keep_params_in_input=False)
        self._folder = folder
        self._tried = tried
        self._building = False

    def convert(self, model: onnx.ModelProto) -> tvm.IRModule:
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),  # TVM prints the node it fails at
        ):
            try:
                return self.from_onnx(model.graph, opset)
            # A converter raises the errors of any Python or C++ code that it calls.
            except Exception as error:
                if self._building:
                    self.bb._end_block()  # or its destructor complains on stderr
                if isinstance(error, ModelError):
                    raise
                raise ModelError(
                    f"TVM {tvm.__version__} cannot import the model ({self._tried}): "
                    f"{_first_line(error)}"
                ) from error

    def _parse_array(self, tensor_proto: onnx.TensorProto) -> tvm.runtime.Tensor:
        return tvm.runtime.tensor(tensor_array(tensor_proto, self._folder))

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = {"If", "Constant", *RECURRENT, *onnx_frontend._get_convert_map()}
        for node in graph.node:
            if node.op_type not in known or node.domain not in ("", "ai.onnx"):
                domain = f"{node.domain}." if node.domain else ""
                raise self._error(node.name, f"{domain}{node.op_type}", "it has no converter")

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        self._building = True
        super()._construct_nodes(graph)

    def _convert_operator(
        self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        node = attrs["tvm_custom"]["name"]
        name = re.sub(r"\W+", "_", node).strip("_")
        try:
            if op_name in RECURRENT:
                return convert_recurrent(self.bb, op_name, inputs, attrs, name)
            if not self.bb.current_block_is_dataflow():  # a branch of an If
                return super()._convert_operator(op_name, inputs, attrs, opset)
            scope = [self._nodes, self._params]
            return convert_node(
                self.bb, op_name, inputs, attrs, opset, scope, lambda e: self._bind(e, name, {})
            )
        except Exception as error:
            raise self._error(node, op_name, _first_line(error)) from error

    def _bind(self, expr: Any, name: str, bound: dict[relax.Expr, relax.Expr]) -> Any:
        """Bind the calls in `expr` to variables called as the node, for readable reports."""
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._bind(field, name, bound) for field in expr.fields])
        if not isinstance(expr, relax.Call):
            return self.bb.normalize(expr) if isinstance(expr, relax.Expr) else expr
        if expr not in bound:
            args = [self._bind(arg, name, bound) for arg in expr.args]
            call = relax.Call(expr.op, args, expr.attrs, expr.ty_args)
            if call.op == _TAKE and call.attrs.mode == "fast":
                # TVM's default would read any address for an index out of range, such as a token's.
                call = relax.op.take(*args, call.attrs.axis, mode="clip")
            call = self.bb.normalize(call)
            tensor = isinstance(call.ty, relax.TensorType)
            bound[expr] = self.bb.emit(call, name) if tensor else call
        return bound[expr]

    def _error(self, node: str, op_type: str, reason: str) -> ModelError:
        return ModelError(
            f"node {node!r} ({op_type}) cannot be imported by TVM {tvm.__version__}: {reason} "
            f"(the model was {self._tried})"
        )


def _first_line(error: Exception) -> str:
    text = re.sub(r"In ir\.Op\(.*?support_level=\d+\), ", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
