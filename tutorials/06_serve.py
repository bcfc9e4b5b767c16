"""
Serve
=====

A server wants to start fast, to answer several requests at once, and to hold the weights once for
all of its processes. This tutorial loads a library as a server does, sends requests from several
threads, and lets a second process use the same weights.
"""

# %%
# A library
# ---------
# A library is compiled for a number of threads; one thread for each request has the best
# throughput. The batch stays open: one library takes requests of any size.

import tempfile
from pathlib import Path

import numpy as np

import tvm_sparse
from tvm_sparse.testing.models import write_mlp

folder = Path(tempfile.mkdtemp())
model = write_mlp(folder / "mlp.onnx")
tvm_sparse.compile(model, {"x": ("batch", "tokens", 32)}, threads=1).save(folder / "mlp.so")

# %%
# Load
# ----
# Loading checks the length and the checksum of the file and maps its weights. It needs TVM's
# runtime, and not its compiler. ``streams`` is the number of requests that run at once; the engine
# belongs to the whole process, and a ``with`` block ends its threads.

rng = np.random.default_rng(0)
requests = [rng.standard_normal((1, tokens, 32), "float32") for tokens in (3, 20, 7, 64)]

with tvm_sparse.load(folder / "mlp.so", threads=1, streams=2) as engine:
    print(engine)
    answers = [engine.submit(x=request) for request in requests]
    outputs = [answer.result()["y"] for answer in answers]
print([output.shape for output in outputs])

# %%
# Errors
# ------
# What a client sends wrong is an ``InputError`` with one line that says what was expected. All
# errors are ``TvmSparseError``; anything else is a bug.

engine = tvm_sparse.load(folder / "mlp.so", threads=1)
try:
    engine(x=np.zeros((1, 5, 31), "float32"))
except tvm_sparse.TvmSparseError as error:
    print(type(error).__name__, error)

# %%
# Another process
# ---------------
# A second worker maps the same pages, so that the weights are in memory once. Give workers the
# path of the library; a fork of this process would work as well.

import subprocess
import sys

worker = """
import sys, numpy as np, tvm_sparse
engine = tvm_sparse.load(sys.argv[1], threads=1)
print(float(engine(x=np.ones((1, 3, 32), "float32"))["y"].sum()), "tvm" in sys.modules)
"""
command = [sys.executable, "-c", worker, str(folder / "mlp.so")]
answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
print(answer)
here = float(engine(x=np.ones((1, 3, 32), "float32"))["y"].sum())
assert answer == [str(here), "False"]  # the compiler was not imported there
