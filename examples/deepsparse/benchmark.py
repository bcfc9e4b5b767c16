"""Times a model and compares its outputs with ONNX Runtime, as DeepSparse's example does.

python benchmark.py model.onnx [BATCH]
"""

import sys

import onnxruntime

from tvm_sparse.compat.deepsparse import compile_model  # was: from deepsparse import compile_model
from tvm_sparse.compat.deepsparse.utils import (  # was: from deepsparse.utils import (
    generate_random_inputs,
    get_input_names,
    override_onnx_batch_size,
    verify_outputs,
)

path, batch_size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
inputs = generate_random_inputs(path, batch_size)
with override_onnx_batch_size(path, batch_size) as copy:
    session = onnxruntime.InferenceSession(copy, providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(zip(get_input_names(path), inputs, strict=True)))

engine = compile_model(path, batch_size=batch_size)
results = engine.benchmark(inputs, num_iterations=20, include_outputs=True)
print(f"{results.items_per_second:.1f} items/s, {results.ms_per_batch:.3f} ms/batch")
verify_outputs(results.outputs[0], expected)
