"""
Autotune
========

How many rows a tensor column has, by how many it advances, and whether overlapping rows are kept or
computed again is chosen by a cost model, for any processor. ``tune`` finds out what is best on the
processor at hand, remembers it in a file of records, and ``compile`` uses that file from then on.
This tutorial tunes three small convolutions, looks at the records and compiles with them.
"""

# %%
# A model
# -------
# Three sparse convolutions of 3x3. The second and the third need rows around those they compute, so
# columns overlap.

import tempfile
from pathlib import Path

import numpy as np
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse import testing

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
weights = {f"w{i}": testing.pruned(rng, (32, 32, 3, 3), 0.1) for i in range(3)}
nodes = [
    make_node("Conv", [source, f"w{i}"], [result], pads=[1, 1, 1, 1])
    for i, (source, result) in enumerate(["xa", "ab", "by"])
]
shape = (1, 32, 160, 160)
model = testing.write_onnx(folder / "model.onnx", nodes, {"x": shape}, ["y"], weights)

# %%
# Tune
# ----
# Every trial runs in a process of its own, in turns with the best plan so far: one that crashes or
# hangs is a failed trial, and a slow phase of the machine hits both. In the end the best few and
# the cost model's choice run side by side. A plan replaces another only if it is faster in most
# rounds.
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
# One JSON object a line. Files of several machines are merged with ``cat``. A run that was ended,
# by Ctrl-C or the hard way, is taken up where it stopped: this one finds everything done.

for line in records_file.read_text().splitlines()[:3]:
    print(line)

size = records_file.stat().st_size
tune.tune(model, threads=1, trials_per_region=4, records=records_file)
assert records_file.stat().st_size == size

# %%
# Compile
# -------
# Without ``records=``, ``compile`` looks into the file in the user's data folder, where ``tune``
# writes by default. Only records of the same processor and number of threads are used. Where
# operators were measured to be faster one by one, no columns are formed.

from tvm_sparse.records.best import RecordedPlans

plans = RecordedPlans.read(records_file)
engine = tvm_sparse.compile(model, threads=1, records=plans)
print(plans.summary())

# %%
# Plans change the order of the work, not the result.

x = rng.standard_normal(shape, "float32")
expected = testing.onnxruntime_outputs(model, {"x": x})["y"]
error = np.abs(engine.run({"x": x})["y"] - expected).max() / np.abs(expected).max()
print(f"largest error relative to the largest output: {error:.1e}")
assert error < 1e-4
