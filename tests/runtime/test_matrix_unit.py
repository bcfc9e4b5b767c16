"""Libraries on the matrix unit AMX ask for it once in every process, and end in one clear error.

The processes are programs of their own, because a process keeps the permission that it got.
"""

import subprocess
import sys

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.testing.models import write_onnx

pytestmark = pytest.mark.skipif(
    not (native().has_matrix_unit and native().has_half),
    reason="this processor has no matrix unit for bfloat16 (AMX)",
)

PROGRAM = """
import ctypes, os, struct, sys
import numpy as np, tvm_sparse

def run():
    engine = tvm_sparse.load(sys.argv[1], threads=2)
    x = np.random.default_rng(0).standard_normal((128, 256)).astype("float32")
    y = engine.run([x])["y"]
    expected = x @ np.load(sys.argv[2])
    assert np.abs(y - expected).max() < 0.02 * np.abs(expected).max()

def in_child():
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def refuse():
    '''Let the system answer EPERM to arch_prctl(ARCH_REQ_XCOMP_PERM) from now on.'''
    load, if_equal, end = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 0), (if_equal, 0, 3, 158), (load, 0, 0, 16), (if_equal, 0, 1, 0x1023)]
    steps += [(end, 0, 0, 0x00050001), (end, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        print("no filters")
        sys.exit()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A library with a dense layer, and its weight."""
    folder = tmp_path_factory.mktemp("matrix_unit")
    weight = np.random.default_rng(1).standard_normal((256, 192)).astype("float32")
    model, library, array = (folder / name for name in ("model.onnx", "model.so", "weight.npy"))
    node = make_node("MatMul", ["x", "w"], ["y"])
    write_onnx(model, [node], {"x": [128, 256]}, ["y"], {"w": weight})
    tvm_sparse.compile(model, threads=2, precision="float16").save(library)
    np.save(array, weight)
    return [str(library), str(array)]


def outcome(files, work):
    """Return what a program prints that does `work`."""
    command = [sys.executable, "-c", PROGRAM + work, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("work", ["run()", "in_child()", "run()\nin_child()\nrun()"])
def test_processes_and_their_children_get_the_unit(files, work):
    assert not outcome(files, work)


def test_a_refusal_is_an_error(files):
    work = (
        "refuse()\ntry:\n    run()\nexcept tvm_sparse.errors.RunError as error:\n    print(error)"
    )
    said = outcome(files, work)
    if said == "no filters":
        pytest.skip("the system lets no process filter its calls")
    assert "does not let this process use the matrix unit" in said and "native-amx" in said
