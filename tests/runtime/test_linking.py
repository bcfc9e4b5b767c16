"""Linkers: which one is taken, what is said when there is none, and what comes out."""

import platform
import struct

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.cli import main
from tvm_sparse.errors import LibraryError, TargetError
from tvm_sparse.runtime import linking
from tvm_sparse.runtime.linking import link, link_command
from tvm_sparse.testing.models import needs_tool, write_mlp

OTHER = {"x86_64": "aarch64"}.get(platform.machine(), "x86_64")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = write_mlp(tmp_path_factory.mktemp("linking") / "mlp.onnx")
    target = {"aarch64": "rpi4", "x86_64": "haswell"}[OTHER]
    return tvm_sparse.compile(model, {"x": (1, 20, 32)}, target=target)


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("linker", linking.LINKERS)
def test_without_a_linker_the_message_names_both_ways(nothing_installed, linker):
    both = r"`pip install ziglang` \(the extra `arm` of tvm-sparse\), or install a cross compiler"
    with pytest.raises(LibraryError, match=f"for {OTHER}: either {both} .*gcc-{OTHER[:3]}"):
        link_command(OTHER, linker)
    with pytest.raises(LibraryError, match=f"for {platform.machine()}: .* a C compiler"):
        link_command(platform.machine(), linker)


def test_unknown_linkers_are_refused():
    with pytest.raises(LibraryError, match="unknown linker 'lld': it is one of auto, zig, gcc"):
        link_command(OTHER, "lld")


def test_the_command_line_asks_before_it_compiles(nothing_installed, tmp_path, capsys):
    output = tmp_path / "a.so"
    arguments = ["compile", "missing.onnx", "--target", "rpi4", "-o", str(output)]
    assert main.main([*arguments, "--linker", "gcc"]) == 2
    assert "error: no gcc for aarch64" in capsys.readouterr().err
    assert not output.exists()


def test_the_compiler_of_the_environment_may_have_arguments(monkeypatch):
    monkeypatch.setenv("CXX", "ccache g++")
    assert link_command(platform.machine()) == ["ccache", "g++"]


@pytest.mark.parametrize("said", [
    "a.s: Fatal error: a.o: No space left on device\na.s: Fatal error: a.o: No such file",
    "ld: final link failed: No space left on device\ncollect2: error: ld returned 1 exit status\n",
])  # fmt: skip
def test_the_message_says_that_the_disk_is_full(said, tmp_path):
    script = tmp_path / "cc"
    script.write_text(f"#!/bin/sh\ncat >&2 <<END\n{said}\nEND\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(LibraryError, match=r"cannot link: .*No space left on device"):
        link([str(script)], "a.so", [], tmp_path)


def test_a_compiler_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cc").write_text('#!/bin/sh\necho "$5" > a.txt\n')
    (tmp_path / "cc").chmod(0o755)
    link(["./cc"], "a.so", [], tmp_path / "folder")
    assert (tmp_path / "folder" / "a.txt").read_text() == "a.so\n"


def test_a_cross_compiler_comes_first(nothing_installed, tmp_path):
    compiler = tmp_path / f"{OTHER}-linux-gnu-gcc"
    compiler.touch(mode=0o755)
    assert link_command(OTHER) == [compiler.name]
    with pytest.raises(LibraryError, match="no zig for"):
        link_command(OTHER, "zig")


@pytest.mark.parametrize("linker", ["zig", "gcc"])
def test_links_for_another_machine(engine, linker, tmp_path):
    with needs_tool(LibraryError):
        link_command(OTHER, linker)
    engine.save(tmp_path / "a.so", linker)
    content = (tmp_path / "a.so").read_bytes()
    assert struct.unpack_from("<H", content, 18) == ({"aarch64": 183, "x86_64": 62}[OTHER],)
    assert b".debug_info" not in content
    with pytest.raises(LibraryError, match=f"built for {OTHER}, and this machine is"):
        tvm_sparse.load(tmp_path / "a.so")


def test_zig_links_for_this_machine_too(tmp_path):
    with needs_tool(LibraryError):
        link_command(platform.machine(), "zig")
    model = write_mlp(tmp_path / "mlp.onnx")
    compiled = tvm_sparse.compile(model, {"x": (1, 20, 32)}, threads=1)
    compiled.save(tmp_path / "a.so", "zig")
    x = np.random.default_rng(0).standard_normal((1, 20, 32)).astype("float32")
    again = tvm_sparse.load(tmp_path / "a.so", threads=1).run([x])["y"]
    np.testing.assert_array_equal(again, compiled.run([x])["y"])


def test_a_model_for_another_machine_does_not_run_here(engine):
    assert engine.info.machine == OTHER
    with pytest.raises(TargetError, match=f"compiled for {OTHER} .*save the library and run it"):
        engine.run([np.zeros((1, 20, 32), "float32")])
