"""Six ways in which exporters write a quantized model, made of one model of floats.

The first three are ONNX Runtime's own quantizer. The others are rewritten from its static QDQ model
into the form that their exporters document, since those are large or cannot be installed any more:

- ``deepsparse``: ``QuantizeLinear``, ``ConvInteger`` or ``MatMulInteger``, ``Add`` of int32,
  ``Cast`` and ``Mul``, and weights of uint8 with the zero point 128;
- ``nncf``: the weights are floats behind a QuantizeLinear and a DequantizeLinear;
- ``torch``: the weight of a product is dequantized outputs first, per channel, and then transposed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.onnx_runtime import onnxruntime  # first, so that it sends no telemetry

_LAYERS = ["Conv", "Gemm", "MatMul"]

Samples = Sequence[np.ndarray]


class _Reader:
    def __init__(self, samples: Samples) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next sample, None behind the last one."""
        sample = next(self._samples, None)
        return None if sample is None else {"x": sample}


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep the quantizer from advising by the root logger that the model be prepared first."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)


def _static(source: Path, target: Path, samples: Samples, form: str, layers: list[str]) -> None:
    import onnxruntime.quantization as quantizer  # noqa: TID251

    with _without_advice():
        quantizer.quantize_static(
            str(source),
            str(target),
            _Reader(samples),
            quant_format=quantizer.QuantFormat[form],
            per_channel=True,
            activation_type=quantizer.QuantType.QUInt8,
            weight_type=quantizer.QuantType.QInt8,
            op_types_to_quantize=layers,
        )


def qdq(source: Path, target: Path, samples: Samples) -> None:
    """Write ONNX Runtime's static QDQ form, all operators that it quantizes included."""
    _static(source, target, samples, "QDQ", [])


def qoperator(source: Path, target: Path, samples: Samples) -> None:
    """Write ONNX Runtime's static form of quantized operators."""
    _static(source, target, samples, "QOperator", [])


def dynamic(source: Path, target: Path, samples: Samples) -> None:
    """Write ONNX Runtime's dynamic form."""
    import onnxruntime.quantization as quantizer  # noqa: TID251

    with _without_advice():
        quantizer.quantize_dynamic(
            str(source), str(target), per_channel=False, weight_type=quantizer.QuantType.QInt8
        )


class _Graph:
    """A static QDQ model of layers only, whose weights can be written in another way."""

    def __init__(self, source: Path, target: Path, samples: Samples) -> None:
        _static(source, target, samples, "QDQ", _LAYERS)
        self.model = onnx.load(target)
        self.graph = self.model.graph
        self.arrays = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def constant(self, name: str, array: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str) -> onnx.NodeProto | None:
        """Return the node that dequantizes a constant of 8 bits, or None."""
        node = self.makers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        array = self.arrays.get(node.input[0])
        return node if array is not None and array.dtype == np.int8 and array.ndim > 1 else None

    def replace(self, nodes: Callable[[onnx.NodeProto], list[onnx.NodeProto]]) -> None:
        changed = [new for node in self.graph.node for new in nodes(node)]
        del self.graph.node[:]
        self.graph.node.extend(changed)

    def write(self, target: Path) -> None:
        read = {name for node in self.graph.node for name in node.input} | {"y"}
        kept = [n for n in self.graph.node if read.intersection(n.output)]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(kept)
        onnx.save(self.model, target)


def nncf(source: Path, target: Path, samples: Samples) -> None:
    """Write weights as floats behind a pair of QuantizeLinear and DequantizeLinear."""
    found = _Graph(source, target, samples)

    def nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if found.weight(node.output[0]) is None:
            return [node]
        values, scale, _ = (found.arrays[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[axis] = -1
        name = found.constant(f"{node.name}_floats", values.astype("f4") * scale.reshape(shape))
        pair = [name, *node.input[1:]]
        rounded = helper.make_node(
            "QuantizeLinear", pair, [f"{name}_q"], f"{node.name}_quantize", axis=axis
        )
        node.input[0] = f"{name}_q"
        return [rounded, node]

    found.replace(nodes)
    found.write(target)


def torch(source: Path, target: Path, samples: Samples) -> None:
    """Write weights of products outputs first, dequantized per channel, and transposed."""
    found = _Graph(source, target, samples)

    def nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        weight = found.weight(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None:
            return [node]
        name = found.constant(f"{node.name}_w", found.arrays[weight.input[0]].T.copy())
        plain = helper.make_node(
            "DequantizeLinear", [name, *weight.input[1:]], [f"{name}_f"], f"{name}_dq", axis=0
        )
        turned = helper.make_node(
            "Transpose", [f"{name}_f"], [f"{name}_t"], f"{name}_t", perm=[1, 0]
        )
        node.input[1] = f"{name}_t"
        return [plain, turned, node]

    found.replace(nodes)
    found.write(target)


def deepsparse(source: Path, target: Path, samples: Samples) -> None:
    """Write integer products with an integer bias, a cast and one factor."""
    found = _Graph(source, target, samples)

    def nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        weight = found.weight(node.input[1]) if node.op_type in ("Conv", "MatMul") else None
        rounded = found.makers.get(node.input[0]) if weight is not None else None
        if weight is None or rounded is None or rounded.op_type != "DequantizeLinear":
            return [node]
        values, of_w, of_x = (
            found.arrays[name] for name in (weight.input[0], weight.input[1], rounded.input[1])
        )
        is_conv, stem = node.op_type == "Conv", node.name
        steps = np.abs(values * (of_w.reshape(-1, *[1] * (values.ndim - 1)) if is_conv else of_w))
        scale = np.float32(steps.max() / 127)  # that exporter has one scale for a weight
        floats = values * (of_w.reshape(-1, *[1] * (values.ndim - 1)) if is_conv else of_w)
        unsigned = (np.rint(floats / scale) + 128).astype("u1")
        factor = np.float32(of_x * scale)
        names = {
            "w": found.constant(f"{stem}_w", unsigned),
            "z": found.constant(f"{stem}_z", np.uint8(128)),
            "m": found.constant(f"{stem}_m", factor),
        }
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        made = [
            helper.make_node(
                "ConvInteger" if is_conv else "MatMulInteger",
                [rounded.input[0], names["w"], rounded.input[2], names["z"]],
                [f"{stem}_i"],
                f"{stem}_quant",
                **attributes,
            )
        ]
        last = f"{stem}_i"
        if is_conv and len(node.input) > 2:
            floats_of_bias = _bias(found, node.input[2])
            wide = np.rint(floats_of_bias / factor).astype("i4")
            shape = (1, -1, *[1] * (values.ndim - 2))
            bias = found.constant(f"{stem}_b", wide.reshape(shape))
            made.append(helper.make_node("Add", [last, bias], [f"{stem}_a"], f"{stem}_bias"))
            last = f"{stem}_a"
        cast = helper.make_node("Cast", [last], [f"{stem}_f"], f"{stem}_cast", to=TensorProto.FLOAT)
        return [
            *made,
            cast,
            helper.make_node("Mul", [f"{stem}_f", names["m"]], list(node.output), f"{stem}_scale"),
        ]

    found.replace(nodes)
    found.write(target)


def _bias(found: _Graph, name: str) -> np.ndarray:
    if name in found.arrays:
        return found.arrays[name]
    node = found.makers[name]
    return found.arrays[node.input[0]].astype("f4") * found.arrays[node.input[1]]


DIALECTS: dict[str, Callable[[Path, Path, Samples], None]] = {
    "ORT QDQ": qdq,
    "ORT QOperator": qoperator,
    "ORT dynamic": dynamic,
    "deepsparse": deepsparse,
    "nncf": nncf,
    "torch": torch,
}
"""The exporters, by name."""

__all__ = ["DIALECTS", "onnxruntime"]
