"""
Register the passes
===================

tvm-sparse is a set of passes over Relax modules. This tutorial builds a small pruned network, runs
the passes one by one while looking at the module, and then runs all of them by name inside
``tvm.compile``, which is all that a build of your own needs.
"""

# %%
# A pruned network
# ----------------
# Two linear layers with a GELU between them and a residual around them, as in a transformer.
# Nine in ten weights of the first layer are zero; the second is dense.

import numpy as np
import tvm
from tvm import relax

TOKENS, WIDTH, INNER = 40, 256, 1024
rng = np.random.default_rng(0)


def weight(inputs: int, outputs: int, density: float) -> np.ndarray:
    """Return a pruned weight that keeps the variance of its input."""
    kept = rng.random((inputs, outputs)) < density
    scale = 1 / np.sqrt(density * inputs)
    return np.where(kept, rng.standard_normal((inputs, outputs)) * scale, 0).astype("float32")


w1, b1 = weight(WIDTH, INNER, 0.1), rng.standard_normal(INNER).astype("float32")
w2, b2 = weight(INNER, WIDTH, 1.0), rng.standard_normal(WIDTH).astype("float32")

builder = relax.BlockBuilder()
x = relax.Var("x", relax.TensorType((1, TOKENS, WIDTH), "float32"))
with builder.function("main", [x]):
    with builder.dataflow():
        h = builder.emit(relax.op.matmul(x, relax.const(w1)))
        h = builder.emit(relax.op.add(h, relax.const(b1)))
        h = builder.emit(relax.op.nn.gelu(h))
        h = builder.emit(relax.op.matmul(h, relax.const(w2)))
        h = builder.emit(relax.op.add(h, relax.const(b2)))
        y = builder.emit_output(relax.op.add(h, x))
    builder.emit_func_output(y)
network = builder.get()
network.show(show_meta=False)

# %%
# One pass at a time
# ------------------
# Every pass is a ``tvm.transform.Pass``: it takes a module and returns a module. The passes that
# choose kernels need to know the CPU: they take a TVM target or a CPU profile. ``native()`` is the
# profile of this machine.

from tvm_sparse import passes
from tvm_sparse.cpu.profile import native

cpu = native()

# %%
# ``SparsifyWeights`` measures the density of each constant weight. Where the cost model expects the
# sparse kernel to win, ``matmul`` becomes ``sparse_linear`` on the packed non-zeros, between two
# changes of layout: the kernels work on *panels*, ``[rows, channels, lanes]``, in which the tokens
# of a block lie side by side in the lanes of vector registers. The layer with the dense weight
# stays as it is.

mod = passes.SparsifyWeights(cpu)(network)
mod.show(show_meta=False)
for layer in mod.attrs["tvm_sparse.layers"]:
    print(layer["kernel"], "-", layer["reason"])

# %%
# ``PackDenseWeights`` gives the dense layer a kernel on panels as well.

mod = passes.PackDenseWeights(cpu)(mod)

# %%
# ``MoveToPanels`` moves the layout changes down until they meet and cancel: one is left at the
# input and one at the output, and everything between works on panels.

mod = passes.MoveToPanels(cpu)(mod)
mod.show(show_meta=False)

# %%
# ``FuseEpilogue`` takes bias, residual and activation into the linear operators, where they cost
# next to nothing because the results are still in registers.

mod = passes.FuseEpilogue()(mod)
mod.show(show_meta=False)

# %%
# ``LowerOperators`` turns the operators into scheduled TensorIR functions for this CPU.

mod = passes.LowerOperators(cpu)(mod)
print([gvar.name_hint for gvar in mod.get_global_vars()])

# %%
# All of them, by name
# --------------------
# Installing tvm-sparse registers the pipeline ``"tvm_sparse"`` with TVM. Nothing needs to be
# imported for that: a build that already calls ``tvm.compile`` changes one argument.

executable = tvm.compile(network, cpu.to_target(), relax_pipeline="tvm_sparse")
machine = relax.VirtualMachine(executable, tvm.cpu())

# %%
# The result is that of NumPy.

from math import erf

data = rng.standard_normal((1, TOKENS, WIDTH)).astype("float32")
result = machine["main"](tvm.runtime.tensor(data)).numpy()

inner = data @ w1 + b1
inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
expected = inner @ w2 + b2 + data
error = np.abs(result - expected).max() / np.abs(expected).max()
print(f"largest error relative to the largest output: {error:.1e}")
assert error < 1e-5
