"""Whether a library calls functions as the installed versions have them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from tvm_sparse.errors import LibraryError
from tvm_sparse.version import __version__


def installed_tvm() -> str:
    """Return the version of TVM, which need not be imported for that."""
    try:
        return importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:  # TVM was built from source.
        import tvm

        return str(tvm.__version__)


def check_versions(path: Path, tvm_version: str, version: str) -> None:
    """Check the versions of TVM and tvm-sparse that built a library.

    Raises
    ------
    LibraryError
        If one of them is of another release.
    """
    ours = (("TVM", tvm_version, installed_tvm()), ("tvm-sparse", version, __version__))
    for name, built, here in ours:
        if _release(built) != _release(here):
            raise LibraryError(
                f"{path}: built with {name} {built}, and this is {name} {here}; compile the model "
                "again"
            )


def _release(version: str) -> list[str]:
    """Return the three numbers of a version; what follows them are builds of the same code."""
    return version.split("+")[0].split(".")[:3]
