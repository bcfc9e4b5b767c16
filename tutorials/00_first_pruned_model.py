"""
The first pruned model
======================

What would pruning gain, and how does a pruned model become a fast library? This tutorial takes a
dense network from its ONNX file to a library in five steps. Each step is one command of
``tvm-sparse``, too.
"""

# %%
# A dense model
# -------------
# Any ONNX file will do, such as one from ``torch.onnx.export``. This one is three linear layers on
# a batch that stays open, with random weights.

import tempfile
from pathlib import Path

import numpy as np
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import pruned, write_onnx

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
weights = {
    f"w{i}": pruned(rng, size, 1) for i, size in enumerate([(256, 512), (512, 512), (512, 10)])
}
nodes = [
    make_node("MatMul", ["x", "w0"], ["a"], name="first"),
    make_node("Relu", ["a"], ["b"]),
    make_node("MatMul", ["b", "w1"], ["c"], name="second"),
    make_node("Relu", ["c"], ["d"]),
    make_node("MatMul", ["d", "w2"], ["y"], name="last"),
]
dense = write_onnx(folder / "dense.onnx", nodes, {"x": ["batch", 256]}, ["y"], weights)
shapes = {"batch": 64}

# %%
# What would pruning gain?
# ------------------------
# ``tvm-sparse analyze dense.onnx --impose-sparsity 0.8,0.95`` prunes copies in memory and asks the
# cost model. With ``--measure`` it compiles and measures them.

from tvm_sparse.report.imposed import impose


def analyze(path):
    return tvm_sparse.analyze(path, shapes)


rows = impose(dense, analyze(dense), [0.8, 0.95], analyze=analyze)
for row in rows:
    print(
        f"{row.zeros:4.0%} zeros: {row.sparse} sparse layers, {1e3 * row.seconds:.3f} ms expected"
    )
assert rows[0].sparse == 0 < rows[-1].sparse

# %%
# Prune
# -----
# ``tvm-sparse prune dense.onnx --sparsity 0.9 -o pruned.onnx`` keeps the largest tenth of every
# weight. One-shot pruning is good for trying things out and bad for accuracy: a network that shall
# be used is pruned step by step while it trains, as ``examples/sparse_transfer`` does.

for weight in tvm_sparse.prune(dense, folder / "pruned.onnx", 0.9):
    print(weight.layer, f"{weight.zeros / weight.size:.0%} zeros", weight.kept)

# %%
# Compile
# -------
# ``tvm-sparse compile pruned.onnx -o model.so``. The report says which layers are sparse, and why
# the others are not; ``verify`` compares the outputs with those of ONNX Runtime.

engine = tvm_sparse.compile(folder / "pruned.onnx", shapes, verify=True)
print(engine.report)
for layer in engine.report.layers:
    print(layer.name, f"{1 - layer.density:.0%} zeros,", layer.kernel, layer.reason)

# %%
# Save, load, run
# ---------------
# The library needs neither the model nor a framework. ``load`` maps its weights.

engine.save(folder / "model.so")
loaded = tvm_sparse.load(folder / "model.so")
x = rng.standard_normal((64, 256), "float32")
np.testing.assert_array_equal(loaded(x)["y"], engine(x)["y"])
print(loaded)
