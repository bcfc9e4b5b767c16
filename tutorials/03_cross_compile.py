"""
Compile for another machine
===========================

A library for a Raspberry Pi, or for another board or server with a 64-bit ARM, can be compiled on
any machine: nothing is measured, because the kernels are tiled from the sizes in the board's CPU
profile. This tutorial compiles a small pruned network for a Raspberry Pi 4, looks at the code that
comes out, and says how to run it there.
"""

# %%
# CPU profiles
# ------------
# A profile says what the kernels need to know of a core. ``tvm-sparse targets`` lists all profiles.

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

board = profile("rpi4")
for cpu in (native(), board):
    print(
        f"{cpu.name}: {cpu.cores} cores, {cpu.vector_registers} vectors of {cpu.vector_bits} bits,"
    )
    print(f"  L1 {cpu.l1_bytes // 1024} KB, L2 {cpu.l2_bytes // 1024} KB a core")

# %%
# An unknown name is an error, which says what to do:

from tvm_sparse.errors import TargetError

try:
    profile("raspberry pi 6")
except TargetError as error:
    print(error)

# %%
# A pruned network
# ----------------
# The network has two linear layers. Nine in ten of their weights are zero.

import numpy as np
from tvm import relax

TOKENS, WIDTH, INNER = 32, 128, 512
rng = np.random.default_rng(0)


def weight(inputs: int, outputs: int) -> relax.Expr:
    """Return a pruned weight that keeps the variance of its input."""
    kept = rng.random((inputs, outputs)) < 0.1
    values = rng.standard_normal((inputs, outputs)) / np.sqrt(0.1 * inputs)
    return relax.const(np.where(kept, values, 0).astype("float32"))


builder = relax.BlockBuilder()
x = relax.Var("x", relax.TensorType((1, TOKENS, WIDTH), "float32"))
with builder.function("main", [x]):
    with builder.dataflow():
        h = builder.emit(relax.op.nn.relu(relax.op.matmul(x, weight(WIDTH, INNER))))
        y = builder.emit_output(relax.op.matmul(h, weight(INNER, WIDTH)))
    builder.emit_func_output(y)
network = builder.get()

# %%
# The same layer is tiled differently for the board: its vectors are shorter, and a block of input
# channels must fit in a smaller cache.


for cpu in (native(), board):
    lanes = cpu.panel_lanes(TOKENS)
    layer = Layer(Linear(TOKENS // lanes, lanes, WIDTH, INNER))
    print(cpu.name, lanes, "tokens a panel;", SPARSE_LINEAR_FAMILY.default(layer, cpu))

# %%
# Compile and save
# ----------------
# ``target`` is the only difference to compiling for this machine. The library is linked with
# ``aarch64-linux-gnu-gcc`` if that is installed, or else with zig, which pip installs
# (``pip install tvm-sparse[arm]``).

import struct
import tempfile
from pathlib import Path

import tvm_sparse
from tvm_sparse.errors import LibraryError

engine = tvm_sparse.compile(network, target="rpi4")
print(engine)

with tempfile.TemporaryDirectory() as folder:
    library = Path(folder) / "network.so"
    try:
        engine.save(library)
        (machine,) = struct.unpack_from("<H", library.read_bytes(), 18)
        print(f"{library.stat().st_size // 1024} KB; ELF machine {machine} (183 is aarch64)")
    except LibraryError as error:
        print(error)

# %%
# A machine with another processor cannot run it, and the error says so.

try:
    engine.run([np.zeros((1, TOKENS, WIDTH), "float32")])
except TargetError as error:
    print(error)

# %%
# The inner loop multiplies vectors of four values by one weight each. A register holds four
# weights, and the multiply-add takes one element of it.

import tvm

executable = tvm.compile(network, board.to_target(), relax_pipeline="tvm_sparse")
instructions = [
    line.strip()
    for module in executable.mod.imports
    if module.kind == "llvm"
    for line in module.inspect_source("s").splitlines()
    if line.strip().startswith("fmla")
]
print(f"{len(instructions)} multiply-adds, such as {instructions[0]!r}")
assert any(".s[" in line for line in instructions)

# %%
# On the board
# ------------
# With Python, the board runs it as this machine runs its own libraries: ``pip install tvm-sparse``,
# then ``tvm_sparse.load("network.so")`` or ``tvm-sparse run network.so``. Without Python, a C++
# program runs it: ``examples/cpp`` has that program and the list of the five files to copy.
