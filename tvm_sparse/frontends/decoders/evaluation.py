"""Values of a decoder that depend on little, computed by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.nodes import reads
from tvm_sparse.onnx_runtime import onnxruntime


def computed(
    model: onnx.ModelProto,
    folder: Path,
    nodes: Sequence[onnx.NodeProto],
    names: Sequence[str],
    fed: Callable[[onnx.ValueInfoProto], NDArray[np.generic]],
) -> list[NDArray[np.generic]]:
    """Return values that some nodes of a model compute.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    folder : Path
        The folder that the locations of external weights are relative to.
    nodes : sequence of onnx.NodeProto
        Those of its nodes that are needed.
    names : sequence of str
        The values.
    fed : callable
        Returns the values of an input of the model.

    Raises
    ------
    ModelError
        If ONNX Runtime cannot compute them.
    """
    graph = model.graph
    read = {*names} | {name for node in nodes for name in reads(node)}
    inputs = [value for value in graph.input if value.name in read]
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    part = helper.make_model(
        helper.make_graph(nodes, "part", inputs, outputs, weights),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    try:
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(list(names), {value.name: fed(value) for value in inputs})
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise ModelError(f"the value {names[0]!r} cannot be computed: {error}") from error
    return [np.asarray(array) for array in found]
