"""Linkers, which turn objects into a shared library for this machine or for another."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tvm.support import cc

from tvm_sparse.errors import LibraryError
from tvm_sparse.runtime import children

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
        return [*children.PYTHON, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{_GLIBC}"]
    raise LibraryError(
        f"no {'linker' if linker == 'auto' else linker} for {machine}: either "
        f"`pip install ziglang` (the extra `arm` of tvm-sparse), or install {_package(machine)}"
    )


def can_link(machine: str) -> bool:
    """Return whether there is a linker for a machine."""
    try:
        return bool(link_command(machine))
    except LibraryError:
        return False


def link(command: Sequence[str], output: str, objects: Sequence[str], folder: Path) -> None:
    """Link objects and assembler files into a stripped shared library.

    Parameters
    ----------
    command : sequence of str
        The command that links.
    output : str
        The name of the library.
    objects : sequence of str
        The names of objects and assembler files, and options of the compiler.
    folder : Path
        The folder of all these files and of the compiler's own temporary ones.

    Raises
    ------
    LibraryError
        If the linker fails.
    """
    # A relative path is one of this process's folder, not of `folder`.
    program = os.path.abspath(command[0]) if "/" in command[0] else command[0]  # noqa: PTH100
    try:
        subprocess.run(
            [program, *command[1:], "-shared", "-fPIC", "-s", "-o", output, *objects],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    except OSError as error:
        raise LibraryError(f"{command[0]}: cannot link: {error.strerror or error}") from error
    except subprocess.CalledProcessError as error:
        why = _cause(error.stderr) or f"exit status {error.returncode}"
        raise LibraryError(f"{command[0]}: cannot link: {why}") from error


def _cause(text: str) -> str:
    """Return the line of a compiler's messages that says why it failed."""
    # The compiler's last word is only that the linker failed.
    lines = [s for s in text.splitlines() if s.strip() and not s.startswith("collect2:")]
    disk = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)]
    last = lines[-1] if lines else ""
    return next((line for line in lines if any(why in line for why in disk)), last)


def _compiler(machine: str) -> list[str]:
    """Return the command of the system's compiler for a machine, empty if there is none."""
    if machine == platform.machine():
        command = cc.get_cc() or ""
        try:
            return shlex.split(command)
        except ValueError as error:
            raise LibraryError(
                f"CXX or CC in the environment is no command ({str(error).lower()}): {command}"
            ) from None
    names = (f"{machine}-linux-gnu-gcc", f"{machine}-unknown-linux-gnu-gcc")
    return [name for name in names if shutil.which(name)][:1]


def _package(machine: str) -> str:
    if machine == platform.machine():
        return "a C compiler (gcc, g++ or clang, or the one in the environment variable CXX)"
    return f"a cross compiler (Debian's package gcc-{machine.replace('_', '-')}-linux-gnu)"
