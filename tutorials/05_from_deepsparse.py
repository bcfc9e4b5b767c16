"""
From DeepSparse
===============

A program that used DeepSparse's engine runs after one changed import. This tutorial is such a
program; behind it stands the same model in the engine's own interface.
"""

# %%
# A model
# -------
# DeepSparse took an ONNX file with zeros in its weights, and so does this package. Its batch may be
# open.

import tempfile
from pathlib import Path

import numpy as np

from tvm_sparse.testing.models import write_mlp

path = write_mlp(Path(tempfile.mkdtemp()) / "mlp.onnx")

# %%
# One import
# ----------
# The names, keywords and defaults are those of DeepSparse 1.8: lists of arrays in the order of the
# ONNX file, input shapes, streams and schedulers.

from tvm_sparse.compat.deepsparse import compile_model  # was: from deepsparse import compile_model

engine = compile_model(str(path), batch_size=2, num_cores=1, input_shapes=[[2, 20, 32]])
print(engine)
inputs = engine.generate_random_inputs()
(outputs,) = engine(inputs)
print(outputs.shape, f"{engine.fraction_of_supported_ops:.0%} of the operators are compiled")

# %%
# The benchmark
# -------------
# ``deepsparse.benchmark model.onnx -b 2 -s sync -t 1`` is ``tvm-sparse benchmark model.onnx -b 2 -s
# sync -t 1`` now, with the same result lines and keys of JSON.

result = engine.benchmark(inputs, num_iterations=20, num_warmup_iterations=5, show_progress=False)
print(f"{result.items_per_second:.0f} items a second, {result.ms_per_batch:.3f} ms a batch")

# %%
# What is new
# -----------
# DeepSparse compiled a model at every start. Here a library is compiled once, saved, and loaded in
# milliseconds; inputs go by name, and every layer that is not sparse has a reason.

import tvm_sparse

ours = tvm_sparse.compile(path, {"batch": 2, "tokens": 20}, threads=1)
ours.save(path.with_suffix(".so"))
loaded = tvm_sparse.load(path.with_suffix(".so"), threads=1)
np.testing.assert_array_equal(loaded(x=inputs[0])["y"], outputs)
print(ours.report)
