"""How the scripts of this folder start."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tvm_sparse.errors import TvmSparseError


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an error that the user can mend becomes one line and exit code 2."""
    try:
        main()
    except TvmSparseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
