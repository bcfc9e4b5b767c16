"""Quantization of an ONNX model to 8 bits by ONNX Runtime's quantizer, and what it changes.

Weights become int8, symmetric, with a scale for each output channel; activations become uint8, with
a zero point. Static scales come from calibration inputs; dynamic ones are computed by the model.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_sparse.errors import InputError, ModelError, border
from tvm_sparse.files import check_writable, scratch_folder
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model, write_model
from tvm_sparse.onnx_runtime import exact_options, onnxruntime
from tvm_sparse.verification.samples import Feeds, Reader, samples_of

LAYERS = ("Conv", "Gemm", "MatMul")
"""The operators that are quantized by default: those with weights."""

_PRODUCTS = ("ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul")

_QUANTIZER = "onnxruntime.quantization"
"""The package, which is imported late and behind `tvm_sparse.onnx_runtime`."""


@dataclass(frozen=True)
class QuantizedOutput:
    """How an output changed.

    Attributes
    ----------
    name : str
        The name of the output.
    relative_error : float
        The root of the mean square of the change, as a share of that of the float output.
    largest_error : float
        The largest change, as a share of the largest magnitude of the float output.
    """

    name: str
    relative_error: float
    largest_error: float


@dataclass(frozen=True)
class Quantized:
    """A model after quantization.

    Attributes
    ----------
    layers : tuple of str
        The names of the nodes whose weight is quantized.
    kept : tuple of str
        The names of the nodes of the same operators that stay in float.
    outputs : tuple of QuantizedOutput
        How much its outputs differ from those of the float model, on the calibration inputs.
    bytes_before, bytes_after : int
        The sizes of the weights.
    """

    layers: tuple[str, ...]
    kept: tuple[str, ...]
    outputs: tuple[QuantizedOutput, ...]
    bytes_before: int
    bytes_after: int


def quantize(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    calibration: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = False,
    exclude: Collection[str] = (),
    op_types: Sequence[str] = LAYERS,
) -> Quantized:
    """Write a quantized copy of a model.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file of floats; it is only read.
    out : str or PathLike
        The file to write, whole or not at all.
    calibration : mapping of str to array
        Values of every input. An array with one axis more than its input has holds several samples
        along its first axis. Needed unless `dynamic`, and there it serves to measure the outputs.
    dynamic : bool
        Whether the model itself computes the scales of its activations.
    exclude : collection of str
        Names of nodes that stay in float.
    op_types : sequence of str
        The operators to quantize.

    Raises
    ------
    ModelError
        If the model cannot be read or quantized, is quantized already, or has no such layer.
    InputError
        If `calibration`, `exclude` or `op_types` do not fit the model.
    OutputError
        If the copy cannot be written, or would replace a file of the model.
    """
    read = ModelFiles(Path(model))
    check_writable(Path(out), read=read)
    if calibration is None and not dynamic:
        raise InputError(
            "static quantization needs calibration inputs: give them by --calibration FILE.npz, or "
            "quantize with --dynamic"
        )
    proto, folder = read_model(model)
    with border(ModelError, f"{model}: its weights cannot be read"):
        onnx.external_data_helper.load_external_data_for_model(proto, str(folder))
    _check(proto, dynamic, exclude, op_types, str(model))
    samples = samples_of(proto, calibration) if calibration is not None else []
    options: dict[str, Any] = {
        "op_types_to_quantize": list(op_types),
        "nodes_to_exclude": list(exclude),
        "per_channel": True,
    }
    with scratch_folder() as scratch, border(ModelError, f"{model}: cannot be quantized"):
        before, after = scratch / "float.onnx", scratch / "quantized.onnx"
        _prepare(proto, before)
        with _quiet():
            _quantizer(dynamic)(before, after, samples, options)
        result = onnx.load(after)
        wanted = _layers_of(onnx.load(before), op_types)
        found = {node for node in wanted if node not in _layers_of(result, op_types, floats=True)}
        outputs = _compared(before, after, samples)
    if not found:
        raise ModelError(f"{model}: no layer of {', '.join(op_types)} with a weight was quantized")
    _check_scales(result)
    write_model(result, Path(out), read)
    layers, kept = (tuple(n for n in wanted if (n in found) == is_one) for is_one in (True, False))
    return Quantized(layers, kept, outputs, _weight_bytes(proto), _weight_bytes(result))


def _check(
    proto: onnx.ModelProto,
    dynamic: bool,
    exclude: Collection[str],
    op_types: Sequence[str],
    model: str,
) -> None:
    """Refuse a model or options that do not fit."""
    registry = importlib.import_module(f"{_QUANTIZER}.registry")
    known = {*registry.IntegerOpsRegistry, "Gemm"} if dynamic else {*registry.QDQRegistry}
    unknown = [name for name in op_types if name not in known]
    if unknown:
        raise InputError(
            f"operator {unknown[0]!r} cannot be quantized; those that can: "
            f"{', '.join(sorted(known))}"
        )
    names = {node.name for node in proto.graph.node}
    lacking = [name for name in exclude if name not in names]
    if lacking:
        raise InputError(f"{model} has no node {lacking[0]!r} to exclude")
    if is_quantized(proto):
        raise ModelError(f"{model} is quantized already: quantize the model of floats")


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether a model has quantized layers."""
    return any(
        node.op_type in (*_PRODUCTS, "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")
        for node in proto.graph.node
    )


def _prepare(proto: onnx.ModelProto, path: Path) -> None:
    """Write the model with its batch normalizations folded and its shapes inferred."""
    options = exact_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMulAddFusion", "TransposeOptimizer"],
    )
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(path)), path)


def _quantizer(dynamic: bool) -> Callable[[Path, Path, list[Feeds], dict[str, Any]], None]:
    quantization = importlib.import_module(_QUANTIZER)

    def by_range(before: Path, after: Path, samples: list[Feeds], options: dict[str, Any]) -> None:
        quantization.quantize_static(
            str(before),
            str(after),
            Reader(samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # A product is followed by a bias: rounding it before would only lose accuracy.
            extra_options={
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
            **options,
        )

    def by_model(before: Path, after: Path, _: list[Feeds], options: dict[str, Any]) -> None:
        quantization.quantize_dynamic(
            str(before),
            str(after),
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
            **options,
        )

    return by_model if dynamic else by_range


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice of the quantizer, which is about other programs, off the user's screen."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.getLogger().setLevel(level)


def _layers_of(proto: onnx.ModelProto, op_types: Sequence[str], floats: bool = False) -> list[str]:
    """Return the names of the nodes with a constant weight; with `floats`, of float32 only."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {node.output[0] for node in proto.graph.node if node.op_type == "Constant"}
    if not floats:
        for node in proto.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                constants.add(node.output[0])
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in op_types and any(name in constants for name in node.input[:2])
    ]


def _check_scales(proto: onnx.ModelProto) -> None:
    """Refuse scales that are no positive numbers."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.input[1] in tensors:
            scales = numpy_helper.to_array(tensors[node.input[1]])
            if not (np.isfinite(scales) & (scales > 0)).all():
                raise ModelError(
                    f"node {node.name!r} has the scale {scales.min()}: the calibration inputs or "
                    "the weights hold no numbers other than infinities and NaN"
                )


def _compared(before: Path, after: Path, samples: Sequence[Feeds]) -> tuple[QuantizedOutput, ...]:
    """Return how the outputs differ on the samples."""
    if not samples:
        return ()
    results = []
    for path in (before, after):
        options = exact_options()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        results.append([session.run(None, dict(feeds)) for feeds in samples])
    found = []
    for i, name in enumerate(names):
        wanted, got = (
            np.concatenate([np.ravel(run[i]) for run in runs]).astype("float64") for runs in results
        )
        off = np.abs(got - wanted)
        size = np.sqrt(np.mean(wanted**2)) or 1.0
        share, largest = np.sqrt(np.mean(off**2)) / size, np.abs(wanted).max(initial=0)
        found.append(
            QuantizedOutput(name, float(share), float(off.max(initial=0) / (largest or 1)))
        )
    return tuple(found)


def _weight_bytes(proto: onnx.ModelProto) -> int:
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer)
