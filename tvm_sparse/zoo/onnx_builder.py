"""Writes ONNX graphs node by node, in the words that PyTorch's exporter uses.

The importer reads these models like the files of users, so the decompositions are those of a raw
export: ``Shape``-driven reshapes, scalars in ``Constant`` nodes, erf GELU in five
nodes and, before opset 17, LayerNorm in nine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from tvm_sparse.files import replacing

# protobuf refuses messages over 2 GiB; weights beyond this go to a file of their own.
EXTERNAL_DATA_BYTES = 1_900_000_000

Dim = int | str


class GraphBuilder:
    """An ONNX graph under construction; every method returns the name of its result.

    Parameters
    ----------
    opset : int
        The operator set to write, 11 to 17.
    """

    def __init__(self, opset: int) -> None:
        if not 11 <= opset <= 17:
            raise ValueError(f"this builder writes opsets 11 to 17, not {opset}")
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._weight_bytes = 0
        self._used: dict[str, int] = {}

    def op(self, kind: str, *inputs: str, at: str = "", **attributes: object) -> str:
        """Append a node of type `kind`, named after the module path `at` as PyTorch does."""
        return self._append(kind, inputs, 1, at, attributes)[0]

    def _append(
        self, kind: str, inputs: Sequence[str], outputs: int, at: str, attributes: dict[str, object]
    ) -> list[str]:
        stem = f"/{at}/{kind}" if at else f"/{kind}"
        count = self._used.get(stem, 0)
        self._used[stem] = count + 1
        name = f"{stem}_{count}" if count else stem
        results = [f"{name}_output_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), results, name, **attributes))
        return results

    def constant(self, value: ArrayLike, dtype: str = "float32", at: str = "") -> str:
        """Append a ``Constant`` node."""
        return self.op("Constant", at=at, value=numpy_helper.from_array(np.array(value, dtype)))

    def weight(self, name: str, value: NDArray) -> str:
        """Add an initializer, or return the one of the same name."""
        if name not in self._weights:
            value = np.ascontiguousarray(value)
            self._weights[name] = numpy_helper.from_array(value, name)
            self._weight_bytes += value.nbytes
        return name

    def dims(self, x: str, axes: Sequence[int], tail: Sequence[int], at: str = "") -> str:
        """Return the int64 vector of `x`'s sizes along `axes` followed by the numbers `tail`."""
        parts = []
        for axis in axes:
            size = self.op("Gather", self.op("Shape", x, at=at), self.constant(axis, "int64", at),
                           at=at, axis=0)  # fmt: skip
            parts.append(self.unsqueeze(size, 0, at))
        parts += [self.constant([n], "int64", at) for n in tail]
        return self.op("Concat", *parts, at=at, axis=0)

    def unsqueeze(self, x: str, axis: int, at: str = "") -> str:
        """Insert an axis of size 1."""
        if self.opset < 13:
            return self.op("Unsqueeze", x, at=at, axes=[axis])
        return self.op("Unsqueeze", x, self.constant([axis], "int64", at), at=at)

    def split(self, x: str, sizes: Sequence[int], axis: int, at: str = "") -> list[str]:
        """Split `x` along an axis into parts of the given sizes."""
        if self.opset < 13:
            return self._append("Split", [x], len(sizes), at, {"axis": axis, "split": list(sizes)})
        lengths = self.constant(list(sizes), "int64", at)
        return self._append("Split", [x, lengths], len(sizes), at, {"axis": axis})

    def slice(self, x: str, start: int, stop: int, axis: int, at: str = "") -> str:
        """Return ``x[start:stop]`` along an axis."""
        bounds = (self.constant([n], "int64", at) for n in (start, stop, axis, 1))
        return self.op("Slice", x, *bounds, at=at)

    def linear(self, x: str, weight: NDArray, bias: NDArray, at: str) -> str:
        """Append ``torch.nn.Linear`` on 3-D input, ``x @ weight.T + bias``; `weight` is (N, K)."""
        product = self.op("MatMul", x, self.weight(f"{at}/weight_t", weight.T), at=at)
        return self.op("Add", self.weight(f"{at}/bias", bias), product, at=at)

    def gemm(self, x: str, weight: NDArray, bias: NDArray, at: str) -> str:
        """Append ``torch.nn.Linear`` on 2-D input, ``x @ weight.T + bias``; `weight` is (N, K)."""
        w, b = self.weight(f"{at}/weight", weight), self.weight(f"{at}/bias", bias)
        return self.op("Gemm", x, w, b, at=at, alpha=1.0, beta=1.0, transB=1)

    def layer_norm(self, x: str, scale: NDArray, shift: NDArray, epsilon: float, at: str) -> str:
        """Append LayerNorm over the last axis: one node from opset 17 on, nine nodes before."""
        gamma, beta = self.weight(f"{at}/weight", scale), self.weight(f"{at}/bias", shift)
        if self.opset >= 17:
            return self.op("LayerNormalization", x, gamma, beta, at=at, axis=-1, epsilon=epsilon)
        mean = self.op("ReduceMean", x, at=at, axes=[-1])
        centred = self.op("Sub", x, mean, at=at)
        square = self.op("Pow", centred, self.constant(2.0, at=at), at=at)
        variance = self.op("ReduceMean", square, at=at, axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(epsilon, at=at), at=at),
                            at=at)  # fmt: skip
        normal = self.op("Div", centred, deviation, at=at)
        return self.op("Add", self.op("Mul", normal, gamma, at=at), beta, at=at)

    def gelu(self, x: str, at: str) -> str:
        """Append ``x * (1 + erf(x / sqrt(2))) / 2`` in the exporter's order."""
        scaled = self.op("Div", x, self.constant(np.sqrt(2.0), at=at), at=at)
        shifted = self.op("Add", self.op("Erf", scaled, at=at), self.constant(1.0, at=at), at=at)
        return self.op("Mul", self.op("Mul", x, shifted, at=at), self.constant(0.5, at=at), at=at)

    def save(
        self,
        path: Path,
        inputs: Mapping[str, tuple[str, Sequence[Dim]]],
        outputs: Mapping[str, tuple[str, Sequence[Dim]]],
    ) -> None:
        """Write the model.

        Parameters
        ----------
        path : Path
            File to write; weights over 1.9 GB go to ``<path>.data`` beside it.
        inputs : mapping of name to (dtype, shape)
            Graph inputs; a shape may hold names of dynamic dimensions.
        outputs : mapping of name to (value, shape)
            Graph outputs (float32): the value that becomes the output, and its shape.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        self._rename({value: name for name, (value, _) in outputs.items()})
        graph = helper.make_graph(
            self._nodes,
            "main_graph",
            [helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
             for name, (dtype, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
             for name, (_, shape) in outputs.items()],
            list(self._weights.values()),
        )  # fmt: skip
        # IR version 8 is the newest that readers of opset 11 to 17 are sure to know.
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        external = self._weight_bytes > EXTERNAL_DATA_BYTES
        weights = path.with_name(f"{path.name}.data")
        with replacing(path) as temporary:
            onnx.save_model(
                model, temporary, save_as_external_data=external,
                **({"location": weights.name} if external else {}),
            )  # fmt: skip
            if external:
                temporary.with_name(weights.name).replace(weights)

    def _rename(self, names: Mapping[str, str]) -> None:
        for node in self._nodes:
            for values in (node.input, node.output):
                for index, value in enumerate(values):
                    values[index] = names.get(value, value)
