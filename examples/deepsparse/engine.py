"""Runs a model on random inputs: the first steps of DeepSparse's guide to its engine.

python engine.py model.onnx [BATCH]
"""

import sys

import numpy as np

from tvm_sparse.compat.deepsparse import Engine  # was: from deepsparse import Engine

path, batch_size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
engine = Engine(model=path, batch_size=batch_size)
print(engine)
inputs = engine.generate_random_inputs()
outputs = engine(inputs)
for name, output in engine.mapped_run(inputs).items():
    print(name, output.shape, output.dtype)
assert all(
    np.array_equal(one, other)
    for one, other in zip(outputs, engine.mapped_run(inputs).values(), strict=True)
)
