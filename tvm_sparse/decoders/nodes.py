"""Nodes and weights of a decoder under construction, named as onnxruntime-genai's builder does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_sparse.decoders.parameters import Parameter
from tvm_sparse.decoders.quantized_rows import QuantizedRows

MICROSOFT = "com.microsoft"

Store = Callable[[str, NDArray], onnx.TensorProto]
"""Returns the initializer of a name and an array; where the bytes lie is its matter."""


class Nodes:
    """The nodes and initializers of a graph; every method returns the name of its result.

    Parameters
    ----------
    store : callable
        Makes the initializers.
    accuracy_level : int
        The attribute of quantized products: 4 lets ONNX Runtime round activations to 8 bits, 0
        and 1 let it compute with float32.
    """

    def __init__(self, store: Store, accuracy_level: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._store = store
        self.accuracy_level = accuracy_level

    def op(
        self, kind: str, name: str, *inputs: str, outputs: tuple[str, ...] = (), domain: str = "",
        **attributes: object,
    ) -> str:  # fmt: skip
        """Append a node; its only output is ``NAME/output_0`` unless `outputs` names others."""
        results = outputs or (f"{name}/output_0",)
        node = helper.make_node(
            kind, list(inputs), list(results), name, domain=domain, **attributes
        )
        self.nodes.append(node)
        return results[0]

    def constant(self, value: int | list[int]) -> str:
        """Append an int64 constant, once for each value."""
        name = f"/model/constants/INT64/{value}"
        if not any(name in node.output for node in self.nodes):
            tensor = numpy_helper.from_array(np.array(value, np.int64), name)
            node = name.replace("constants", "constant_nodes")
            self.op("Constant", node, outputs=(name,), value=tensor)
        return name

    def weight(self, name: str, value: NDArray) -> str:
        """Add an initializer, or return the one of the same name."""
        if name not in self.initializers:
            self.initializers[name] = self._store(name, np.ascontiguousarray(value))
        return name

    def norm(self, name: str, x: str, scale: NDArray, epsilon: float, weight: str) -> str:
        """Append the RMS norm of `x`."""
        stored = self.weight(weight, scale.astype(np.float32))
        return self.op(
            "SimplifiedLayerNormalization", f"{name}/LayerNorm", x, stored,
            outputs=(f"{name}/output_0",), axis=-1, epsilon=epsilon, stash_type=1,
        )  # fmt: skip

    def skip_norm(
        self, name: str, x: str, skip: str, scale: NDArray, epsilon: float, weight: str,
        last: bool,
    ) -> tuple[str, str]:  # fmt: skip
        """Append the RMS norm of ``x + skip``; return it and, unless it is the last, the sum."""
        stored = self.weight(weight, scale.astype(np.float32))
        normal, total = f"{name}/output_0", f"{name}/output_3"
        self.op(
            "SkipSimplifiedLayerNormalization", f"{name}/SkipLayerNorm", x, skip, stored,
            outputs=(normal,) if last else (normal, "", "", total), domain=MICROSOFT,
            epsilon=epsilon,
        )  # fmt: skip
        return normal, total

    def linear(self, name: str, x: str, weight: Parameter, output: str = "") -> str:
        """Append ``x @ weight.T``, a ``MatMul`` of floats or a ``MatMulNBits``.

        Parameters
        ----------
        name : str
            A path such as ``/model/layers.0/mlp/up_proj``.
        x : str
            The value to multiply.
        weight : array or QuantizedRows
            (N, K).
        output : str
            The name of the product, if it is an output of the graph.
        """
        name = f"{name}/MatMul"
        stem = f"{name[1:].replace('/', '.')}.weight"
        outputs = (output,) if output else ()
        if not isinstance(weight, QuantizedRows):
            stored = self.weight(stem, weight.T.astype(np.float32))
            return self.op("MatMul", name, x, stored, outputs=outputs)
        # What ONNX Runtime's quantizer calls a quantized node and its operands.
        operands = [*self.quantized(f"{stem}_Q{weight.bits}G{weight.block}", stem, weight)]
        return self.op(
            "MatMulNBits", f"{name}_Q{weight.bits}", x, *operands, outputs=outputs,
            domain=MICROSOFT, K=weight.columns, N=weight.rows, bits=weight.bits,
            block_size=weight.block, accuracy_level=self.accuracy_level,
        )  # fmt: skip

    def quantized(self, codes: str, stem: str, weight: QuantizedRows) -> tuple[str, ...]:
        """Add codes, scales and, if there are any, zero points of a weight."""
        points = weight.packed_zero_points()
        names = (
            self.weight(codes, weight.codes),
            self.weight(f"{stem}_scales", weight.scales.astype(np.float32)),
        )
        if points is None:
            return names
        return *names, self.weight(f"{stem}_zero_points", points)

    def add_bias(self, name: str, x: str, bias: NDArray) -> str:
        """Append ``x + bias``."""
        stored = self.weight(f"{name[1:].replace('/', '.')}.Add.bias", bias.astype(np.float32))
        return self.op("Add", f"{name}/Add", x, stored)
