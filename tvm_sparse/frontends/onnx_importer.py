"""ONNX file => Relax module with static shapes and its weights as constants.

The graph is simplified first by ONNX Runtime's basic offline optimizations (constant folding,
dead nodes, normalization folding): raw exports hold shape arithmetic that TVM cannot import.
If ONNX Runtime refuses the model, or TVM refuses the simplified one, TVM gets the model as it is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import tvm

from tvm_sparse.errors import ModelError, border
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.canonical import canonical
from tvm_sparse.frontends.canonical.checker import fault
from tvm_sparse.frontends.canonical.empty_operands import drop_empty_operands
from tvm_sparse.frontends.canonical.expert_mixtures import gather_experts
from tvm_sparse.frontends.canonical.light import with_light_weights
from tvm_sparse.frontends.checks.nodes import check_nodes
from tvm_sparse.frontends.fallback import partition
from tvm_sparse.frontends.graph_importer import (
    GraphImporter,
    NotConverted,
    first_line,
    no_converter,
)
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.nodes import qualified
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.frontends.untouched_weights import untouched_weights
from tvm_sparse.frontends.value_types import ValueType, value_types
from tvm_sparse.layer_report import FILE_LAYERS
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.specs import Fallback

# These optimizers of ONNX Runtime hide what the passes look for: the first wraps matrix products in
# reshapes, the second moves transposes out of attention. The third changes results: it rounds a
# bias of floats to the steps of a quantized layer's sums, which are coarse where a channel of
# zeros has any scale. The fourth does, too: of two roundings in turn it drops the first one.
_DISABLED_OPTIMIZERS = [
    *("MatMulAddFusion", "TransposeOptimizer"),
    *("WeightBiasQuantization", "DoubleQDQPairsRemover"),
]


def import_onnx(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Sequence[int]] | None = None,
    no_fallback: str = "",
    distrusted: Mapping[str, str] | None = None,
) -> ImportedModel:
    """Import an ONNX model; its file is never changed.

    Parameters
    ----------
    path : str or PathLike
        The ``.onnx`` file (weights may lie in external files next to it), or its folder.
    shapes : mapping of str to sequence of int, optional
        Shapes of the inputs that have dynamic dimensions.
    no_fallback : str
        Why ONNX Runtime may not run nodes that cannot be compiled; empty if it may.
    distrusted : mapping of str to str, optional
        Names of nodes that ONNX Runtime shall run though they can be compiled, and why. Names
        that the model does not have are left out.

    Returns
    -------
    ImportedModel

    Raises
    ------
    ModelError
        If the file is no whole ONNX model, or nodes can neither be compiled nor fall back.
    InputError
        If `shapes` does not fit the model or leaves a dimension open.
    """
    model, folder = read_model(path)
    bind_shapes(model, shapes)
    with border(ModelError, f"{Path(path)}: cannot be imported"):
        return _imported(model, folder, no_fallback, distrusted)


def _imported(
    model: onnx.ModelProto,
    folder: Path,
    no_fallback: str,
    distrusted: Mapping[str, str] | None,
) -> ImportedModel:
    model = canonical(model, folder, lambda node: not no_converter(node))
    check_nodes(model, folder)  # before ONNX Runtime computes constants, of whatever size
    model = gather_experts(model, folder)
    layers = [layer.to_json() for layer in file_layers(model, folder)]
    names = {node.name for node in model.graph.node}
    distrusted = {node: why for node, why in (distrusted or {}).items() if node in names}
    with scratch_folder() as scratch:
        model, mod, fallbacks = _import(model, folder, scratch, no_fallback, distrusted)
    reasons = {node: found.reason for found in fallbacks for node in found.nodes}
    for layer in layers:
        if layer["layer"] in reasons:
            layer["fallback"] = reasons[layer["layer"]]
    inputs, outputs = (
        [value.name for value in values] for values in (model.graph.input, model.graph.output)
    )
    main = mod["main"]
    # A single output that is a tuple is a sequence.
    output_types = [main.ret_ty] if len(outputs) == 1 else main.ret_ty.fields
    return ImportedModel(
        mod.with_attr(FILE_LAYERS, layers),
        tuple(map(tensor_spec, inputs, (param.ty for param in main.params))),
        tuple(map(tensor_spec, outputs, output_types)),
        fallbacks,
    )


@dataclass(frozen=True)
class _Form:
    """A form of the user's model that TVM may be able to import.

    Attributes
    ----------
    model : onnx.ModelProto
        The model.
    folder : Path
        The folder that the locations of external weights are relative to.
    tried : str
        What ONNX Runtime did to it, as the end of "the model was".
    """

    model: onnx.ModelProto
    folder: Path
    tried: str

    @functools.cached_property
    def types(self) -> dict[str, ValueType] | None:
        """The types of the values, None if ONNX Runtime cannot run the model."""
        try:
            return value_types(self.model, self.folder)
        # ONNX Runtime's errors share no base class below Exception.
        except Exception:
            return None

    @functools.cached_property
    def standard_types(self) -> dict[str, onnx.TypeProto]:
        """The types that the ONNX standard gives to values; an invalid node is an error."""
        return check_nodes(self.model, self.folder)

    def convert(self) -> tvm.IRModule:
        """Return the module; the errors are those of `GraphImporter.convert`."""
        importer = GraphImporter(self.folder, lambda: self.types, self.standard_types)
        try:
            return importer.convert(self.model)
        except ModelError as error:
            raise ModelError(
                f"TVM {tvm.__version__} cannot import the model ({self.tried}): {error}"
            ) from error

    def with_fallback(
        self, reasons: Mapping[int, str]
    ) -> tuple[onnx.ModelProto, tvm.IRModule, tuple[Fallback, ...]]:
        """Return the model and its module, where ONNX Runtime runs the nodes that have reasons."""
        assert self.types is not None
        positions = {
            name: position
            for position, node in enumerate(self.model.graph.node)
            for name in node.output
            if name
        }
        while True:
            parts = partition(self.model, self.folder, self.types, reasons)
            importer = GraphImporter(
                self.folder, lambda: self.types, self.standard_types, parts.submodels
            )
            try:
                return parts.model, importer.convert(parts.model), parts.fallbacks
            except NotConverted as more:
                nodes = parts.model.graph.node
                found = {
                    positions[next(filter(None, nodes[node].output))]: reason
                    for node, reason in more.reasons.items()
                }
                reasons = {**reasons, **found}

    def error(self, reasons: Mapping[int, str], no_fallback: str) -> ModelError:
        """Return the error for nodes that cannot be converted."""
        nodes = [
            f"{node.name!r} ({qualified(node)})"
            for node in (self.model.graph.node[position] for position in sorted(reasons))
        ]
        first, *others = nodes
        also = f"; nor can {', '.join(others[:5])}" if others else ""
        also += f" and {len(others) - 5} more" if len(others) > 5 else ""
        no_fallback = f"; {no_fallback}" if no_fallback and self.types is not None else ""
        return ModelError(
            f"node {first} cannot be imported by TVM {tvm.__version__}: {reasons[min(reasons)]}"
            f"{also} (the model was {self.tried}){no_fallback}"
        )


def _import(
    model: onnx.ModelProto,
    folder: Path,
    scratch: Path,
    no_fallback: str,
    distrusted: Mapping[str, str],
) -> tuple[onnx.ModelProto, tvm.IRModule, tuple[Fallback, ...]]:
    """Return the form of the model that TVM could import, its module, and what falls back."""
    refused: list[tuple[_Form, dict[int, str], ModelError]] = []
    # ONNX Runtime writes out operators that TVM can convert, such as GroupNormalization; so the
    # model as it is gets its turn, too.
    for form in _forms(model, folder, scratch):
        found = {
            position: distrusted[node.name]
            for position, node in enumerate(form.model.graph.node)
            if node.name in distrusted
        }
        # Where the simplification merged such a node with another one, the model as it is has it.
        if len(found) < len(distrusted) and form.folder == scratch:
            continue
        if found and form.types is not None and not no_fallback:
            return form.with_fallback(found)
        try:
            return form.model, form.convert(), ()
        except NotConverted as error:
            refused.append((form, error.reasons, form.error(error.reasons, no_fallback)))
        except ModelError as error:
            everything = dict.fromkeys(range(len(form.model.graph.node)), str(error))
            refused.append((form, everything, error))
    # Raw exports hold shape arithmetic that fails, too: the form with the fewest failures is best.
    for form, reasons, _ in sorted(refused, key=lambda refusal: len(refusal[1])):
        if reasons and form.types is not None and not no_fallback:
            return form.with_fallback(reasons)
    raise refused[0][2]


def _forms(model: onnx.ModelProto, folder: Path, scratch: Path) -> Iterator[_Form]:
    """Yield the model as ONNX Runtime simplifies it, if it does, and as it is."""
    version = f"ONNX Runtime {onnxruntime.__version__}"
    try:
        simple = simplified(model, folder, scratch)
    except Refused as refusal:
        if wrong := fault(model):
            raise ModelError(f"not a valid model: {refusal} (onnx.checker: {wrong})") from None
        tried = f"not simplified, since {version} said: {refusal}"
    else:
        tried = f"simplified by {version}"
        # ONNX Runtime forgets the ranks that it does not find by itself.
        del simple.graph.output[:]
        simple.graph.output.extend(model.graph.output)
        yield _Form(simple, scratch, tried)
    yield _Form(model, folder, tried)


class Refused(Exception):
    """ONNX Runtime's reason for not simplifying a model."""


def simplified(model: onnx.ModelProto, folder: Path, scratch: Path) -> onnx.ModelProto:
    """Return the simplified model, whose large weights lie in it or in a file in `scratch`."""
    return with_light_weights(
        model, lambda light: _simplified_light(light, folder, scratch), untouched_weights(model)
    )


def _simplified_light(model: onnx.ModelProto, folder: Path, scratch: Path) -> onnx.ModelProto:
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
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_DISABLED_OPTIMIZERS,
        )
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise Refused(first_line(error)) from None
    simple = onnx.load(options.optimized_model_filepath, load_external_data=False)
    simple = drop_empty_operands(simple)
    foreign = {node.domain for node in simple.graph.node} - {"", "ai.onnx"}
    if foreign and foreign - {n.domain for n in model.graph.node}:
        raise Refused(f"it needs operators of {', '.join(sorted(foreign))}")
    return simple
