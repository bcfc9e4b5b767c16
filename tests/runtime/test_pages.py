"""A loaded library holds its weights once."""

import subprocess
import sys

import numpy as np
from onnx.helper import make_node
from tvm.runtime import _ffi_api

import tvm_sparse
from tvm_sparse.runtime.loaded import WEIGHTS
from tvm_sparse.testing.models import write_onnx

MB = 1 << 20

PROGRAM = """
import sys, numpy as np, tvm_sparse
from pathlib import Path

def resident(path):
    '''Return the bytes of a library's file that are in this process's memory.'''
    found, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found

path = Path(sys.argv[1])
engine = tvm_sparse.load(path)
before = resident(path)
x = np.ones((8, 1024), "float32")
first = engine.run([x])
again = tvm_sparse.load(path).run([x])
assert all(np.array_equal(first[name], again[name]) for name in first)
print(before, resident(path))
"""


def test_the_pages_of_the_file_are_given_back(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1024, 2048)).astype("float32")}
    path = write_onnx(
        tmp_path / "m.onnx", [make_node("MatMul", ["x", "w"], ["y"])], {"x": [8, 1024]}, ["y"],
        weights,
    )  # fmt: skip
    library = tmp_path / "m.so"
    tvm_sparse.compile(path, threads=1).save(library)
    assert library.stat().st_size > 8 * MB
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, library], capture_output=True, text=True, check=True
    )
    for resident in map(int, done.stdout.split()):
        assert resident < MB


def test_the_name_of_the_weights_is_the_one_that_tvm_looks_up():
    assert _ffi_api.ModuleImportsBlobName() == WEIGHTS
