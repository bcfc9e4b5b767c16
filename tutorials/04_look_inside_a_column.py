"""
Look inside a tensor column
===========================

Layers that follow one another can run row by row instead of one by one: a core carries a few rows
through all of them while they are in its own cache. Such a run is a *tensor column*. This tutorial
shows which rows the stages of a column compute, how many the two ways of treating overlaps compute
twice, and that the result is the same.
"""

# %%
# Three convolutions
# ------------------
# Each output row of a 3x3 convolution needs three rows of its input. So four rows of the last layer
# need six rows of the second, eight of the first, and ten of the image.

import tempfile
from pathlib import Path

import numpy as np
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import pruned, write_onnx

rng = np.random.default_rng(0)
weights = {f"w{i}": pruned(rng, (16, 16, 3, 3), 0.1) for i in range(3)}
nodes = [
    make_node("Conv", [source, f"w{i}"], [result], name=f"conv{i}", pads=[1, 1, 1, 1])
    for i, (source, result) in enumerate(["xa", "ab", "by"])
]
shape = (1, 16, 64, 64)
path = write_onnx(Path(tempfile.mkdtemp()) / "m.onnx", nodes, {"x": shape}, ["y"], weights)

# %%
# The region and its plan
# -----------------------
# ``analyze`` returns what the compiler decides, here for a Raspberry Pi 4: no board is needed for
# that. Operators that run in columns form a region; ``columns=8`` asks for columns of eight rows.

found = tvm_sparse.analyze(path, target="rpi4", columns=8)
region = max(found.regions, key=lambda region: len(region.shape.stages))
names = [stage.name for stage in region.shape.stages]
print(names)
print(region.plan, "->", region.plan.columns(region.shape), "columns")

# %%
# Which rows run when
# -------------------
# A column advances in steps, here of four rows. With ``recompute``, each step computes all rows
# that it needs, some of which the step before has computed already. With ``carry``, a step computes
# new rows only, and those that the next step needs again stay in a rolling buffer.

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import column_rows, runs

counts = {}
for overlap in ("recompute", "carry"):
    plan = ColumnPlan(column_rows=8, step_rows=4, overlap=overlap)
    counts[overlap] = 0
    print(overlap)
    for step in runs(region.shape, plan, column_rows(region.shape, plan, 1)):
        spans = zip(names, step, strict=True)
        print("  ", ", ".join(f"{name} {first} to {end - 1}" for name, (first, end) in spans))
        counts[overlap] += sum(end - first for first, end in step)
print(counts)
assert counts["carry"] < counts["recompute"]

# %%
# The order changes, the result does not
# --------------------------------------
# ``tvm-sparse analyze model.onnx --html page.html`` draws the regions of your own model, with the
# reason why each of them ends where it does.

x = rng.standard_normal(shape, "float32")
by_column = tvm_sparse.compile(path, threads=1, columns=8)(x)["y"]
one_by_one = tvm_sparse.compile(path, threads=1, columns="off")(x)["y"]
difference = np.abs(by_column - one_by_one).max() / np.abs(one_by_one).max()
print(f"largest difference relative to the largest output: {difference:.1e}")
assert difference < 1e-5
