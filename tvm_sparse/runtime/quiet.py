"""What TVM's C++ prints while libraries are written and loaded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_runtime() -> Iterator[None]:
    """Drop the line that TVM's C++ prints for each weight; other output still reaches stderr."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            kept = [
                line
                for line in log
                if b"Scope Saving:" not in line and b"Scope Loaded:" not in line
            ]
            os.write(2, b"".join(kept))
