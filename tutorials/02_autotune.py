"""
Autotune
========

A cost model chooses, for any processor, how many rows a tensor column has, by how many rows it
advances in a step, and whether the rows that two steps share are kept or computed again. ``tune``
measures which choice is the fastest on the processor at hand and writes it to a file of records,
which ``compile`` uses from then on. This tutorial tunes three small convolutions, looks at the
records, and compiles with them.
"""

# %%
# A model
# -------
# The model is three sparse 3x3 convolutions. Each of them needs one row above and one row below
# those that it computes, so neighbouring columns overlap.

import tempfile
from pathlib import Path

import numpy as np
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
weights = {f"w{i}": pruned(rng, (32, 32, 3, 3), 0.1) for i in range(3)}
nodes = [
    make_node("Conv", [source, f"w{i}"], [result], pads=[1, 1, 1, 1])
    for i, (source, result) in enumerate(["xa", "ab", "by"])
]
shape = (1, 32, 160, 160)
model = write_onnx(folder / "model.onnx", nodes, {"x": shape}, ["y"], weights)

# %%
# Tune
# ----
# Every trial runs in a process of its own: a plan that crashes or hangs is a failed trial and
# nothing else. It takes turns with the best plan so far, so that a slow phase of the machine hits
# both. At the end the best few plans and the cost model's choice run side by side. A plan replaces
# another one only if it is faster in most rounds.
#
# The command line does the same: ``tvm-sparse tune model.onnx --plot times.png``. On a farm of
# boards it is ``tvm-sparse tune model.onnx --target rpi4 --tracker HOST:PORT --key rpi4``.

from tvm_sparse.tuning import tune

records_file = folder / "records.jsonl"
tuned = tune.tune(model, threads=1, trials_per_region=4, records=records_file)
for region in tuned:
    print(region.name)
    print("  cost model:", dict(region.outcome.task.plans[0]))
    print("  best:      ", dict(region.outcome.best.plan), f"{region.outcome.gain:.2f}x faster")

# %%
# Records
# -------
# A record is a line with a JSON object. Files of several machines are merged with ``cat``. A run
# that was ended, by Ctrl-C or in any other way, is taken up where it stopped. The second call of
# ``tune`` below finds everything done and adds nothing.

for line in records_file.read_text().splitlines()[:3]:
    print(line)

size = records_file.stat().st_size
tune.tune(model, threads=1, trials_per_region=4, records=records_file)
assert records_file.stat().st_size == size

# %%
# Compile
# -------
# Without ``records=``, ``compile`` reads the file in the user's data folder, to which ``tune``
# writes by default. It uses only records of the same processor and the same number of threads.
# Where operators were measured to be faster one by one, it forms no columns.
# The engine's ``report`` holds what it used of the records.

engine = tvm_sparse.compile(model, threads=1, records=records_file)
print(engine.report.records)

# %%
# A plan changes the order of the work, not the result.

x = rng.standard_normal(shape, "float32")
expected = onnxruntime_outputs(model, {"x": x})["y"]
error = np.abs(engine.run({"x": x})["y"] - expected).max() / np.abs(expected).max()
print(f"largest error relative to the largest output: {error:.1e}")
assert error < 1e-4
