"""The weights that ONNX Runtime's simplification reads and writes without looking at them.

They are most of the bytes of a transformer. ONNX Runtime gets such a model without them, in a
quarter of the time and of the memory.
"""

from __future__ import annotations

import onnx
from onnx.external_data_helper import uses_external_data

from tvm_sparse.frontends.canonical.light import SMALLEST
from tvm_sparse.frontends.canonical.subgraphs import names_read_within


def untouched_weights(model: onnx.ModelProto) -> set[str]:
    """Return the names of large weights inside a model that no optimizer folds or fuses.

    These are second factors of products, and tables of which the user's indices pick rows. Batch
    normalizations are folded into products, so that a model with one of them has none.
    """
    graph = model.graph
    known = {
        tensor.name
        for tensor in graph.initializer
        if tensor.ByteSize() >= SMALLEST and not uses_external_data(tensor)
    }
    constant = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input}
    known -= {value.name for value in graph.output} | set(names_read_within(graph))
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            return set()
        if node.op_type == "Constant":
            constant.update(node.output)
        for position, name in enumerate(node.input):
            if name not in known:
                continue
            is_factor = node.op_type == "MatMul" and position == 1
            is_table = node.op_type == "Gather" and position == 0 and node.input[1] in inputs
            if not is_table and not (is_factor and node.input[0] not in constant):
                known.discard(name)
    return known
