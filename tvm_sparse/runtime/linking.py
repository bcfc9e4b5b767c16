"""Linkers, which turn objects into a shared library for this machine or for another."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tvm.support import cc

from tvm_sparse.errors import LibraryError

LINKERS = ("auto", "zig", "gcc")
"""``"auto"`` is the compiler of the system if there is one, else zig."""

# The version of the oldest GNU C library that TVM's wheels run with.
_GLIBC = "2.28"


def link_command(machine: str, linker: str = "auto") -> list[str]:
    """Return the command that links for a machine; arguments follow.

    Parameters
    ----------
    machine : str
        The name of the architecture on Linux, such as ``"aarch64"``.
    linker : str
        One of `LINKERS`.

    Raises
    ------
    LibraryError
        If there is no such linker.
    """
    if linker not in LINKERS:
        raise LibraryError(f"unknown linker {linker!r}: it is one of {', '.join(LINKERS)}")
    compiler = _compiler(machine)
    if compiler and linker != "zig":
        return compiler
    if importlib.util.find_spec("ziglang") and linker != "gcc":
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{_GLIBC}"]
    raise LibraryError(
        f"no {'linker' if linker == 'auto' else linker} for {machine}: either "
        f"`pip install ziglang` (the extra `arm` of tvm-sparse), or install {_package(machine)}"
    )


def link(command: Sequence[str], output: str, objects: Sequence[str]) -> None:
    """Link objects and assembler files into a stripped shared library.

    Raises
    ------
    LibraryError
        If the linker fails.
    """
    arguments = [*command, "-shared", "-fPIC", "-s", "-o", output, *objects]
    try:
        subprocess.run(arguments, check=True, capture_output=True, text=True)
    except OSError as error:
        raise LibraryError(f"{command[0]}: cannot link: {error.strerror or error}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit status {error.returncode}"
        raise LibraryError(f"{command[0]}: cannot link: {said.splitlines()[-1]}") from None


def _compiler(machine: str) -> list[str]:
    """Return the command of the system's compiler for a machine, empty if there is none."""
    if machine == platform.machine():
        return shlex.split(cc.get_cc() or "")
    names = (f"{machine}-linux-gnu-gcc", f"{machine}-unknown-linux-gnu-gcc")
    return [name for name in names if shutil.which(name)][:1]


def _package(machine: str) -> str:
    if machine == platform.machine():
        return "a C compiler (gcc, g++ or clang, or the one in the environment variable CXX)"
    return f"a cross compiler (Debian's package gcc-{machine.replace('_', '-')}-linux-gnu)"
