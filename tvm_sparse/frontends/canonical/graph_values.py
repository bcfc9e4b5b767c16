"""Which values of a graph are constants, and what values are where some others are given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.frontends.nodes import needed, reads
from tvm_sparse.frontends.onnx_file import tensor_array
from tvm_sparse.onnx_runtime import onnxruntime

_RANDOM = ("Bernoulli", "Multinomial", "Random")
"""How the names of operators begin whose results are no constants though their operands are."""

Array = NDArray[np.generic]


class GraphValues:
    """The values of the main graph of a model.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose nodes are in the order in which they are computed.
    folder : Path
        The folder that the locations of external weights are relative to.

    Attributes
    ----------
    makers : dict of str to onnx.NodeProto
        The node that computes a value.
    readers : dict of str to list of onnx.NodeProto
        The nodes that read a value.
    places : dict of str to int
        The position of the node that computes a value.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.places = {
            name: place for place, node in enumerate(self.nodes) for name in node.output if name
        }
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constants = set(self._tensors)
        for node in self.nodes:
            if not node.op_type.startswith(_RANDOM) and self._constants.issuperset(reads(node)):
                self._constants.update(node.output)
        self._arrays: dict[str, Array | None] = {}
        self._sessions: dict[tuple[object, ...], onnxruntime.InferenceSession] = {}

    def is_constant(self, name: str) -> bool:
        """Return whether a value does not depend on inputs of the graph."""
        return name in self._constants

    def constant(self, name: str) -> Array | None:
        """Return what a constant is, None if ONNX Runtime cannot compute it."""
        if name in self._tensors:
            return tensor_array(self._tensors[name], self.folder)
        if name not in self._arrays:
            found = self.computed([name], {})
            self._arrays[name] = None if found is None else found[0]
        return self._arrays[name]

    def dependent(self, names: Iterable[str]) -> set[str]:
        """Return values and all that is computed from them."""
        found = set(names)
        for node in self.nodes:
            if not found.isdisjoint(reads(node)):
                found.update(filter(None, node.output))
        return found

    def needed(self, names: Iterable[str], given: Collection[str] = ()) -> list[onnx.NodeProto]:
        """Return the nodes that values depend on, but for those behind given values."""
        return needed(self.nodes, names, given)

    def computed(
        self, names: Sequence[str], given: Mapping[str, Array]
    ) -> list[NDArray[np.generic]] | None:
        """Return what values are where others are given.

        Inputs of the graph that are not given are zeros of integers, or make the result None, as
        does all that ONNX Runtime cannot compute.
        """
        if given.keys() >= {*names}:
            return [given[name] for name in names]
        key = (*names, *((name, array.shape, str(array.dtype)) for name, array in given.items()))
        try:
            if key not in self._sessions:
                self._sessions[key] = self._session([n for n in names if n not in given], given)
            session = self._sessions[key]
            fed = {value.name for value in session.get_inputs()}
            whole = {**self._zeros(fed - given.keys()), **given}
            wanted = [value.name for value in session.get_outputs()]
            results = session.run(wanted, {name: whole[name] for name in fed})
        # ONNX Runtime's errors share no base class below Exception.
        except Exception:
            return None
        found = {**given, **dict(zip(wanted, results, strict=True))}
        return [np.asarray(found[name]) for name in names]

    def _zeros(self, names: Collection[str]) -> dict[str, Array]:
        """Return zeros for inputs of the graph.

        Raises
        ------
        ValueError
            If they do not hold integers.
        """
        zeros: dict[str, Array] = {}
        for value in self.model.graph.input:
            if value.name in names:
                kind = value.type.tensor_type
                dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
                if dtype.kind != "i":
                    raise ValueError(f"the input {value.name!r} is not given")
                zeros[value.name] = np.zeros([dim.dim_value for dim in kind.shape.dim], dtype)
        return zeros

    def _session(
        self, names: Sequence[str], given: Mapping[str, Array]
    ) -> onnxruntime.InferenceSession:
        nodes = self.needed(names, given)
        read = {*names} | {name for node in nodes for name in reads(node)}
        arrays = {name: array for name, array in given.items() if name in read}
        arrays |= self._zeros(read - given.keys())
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in names]
        weights = [self._tensors[n] for n in read if n in self._tensors and n not in arrays]
        part = helper.make_model(
            helper.make_graph(nodes, "part", inputs, outputs, weights),
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
            functions=self.model.functions,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.folder)
        )
        return onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
