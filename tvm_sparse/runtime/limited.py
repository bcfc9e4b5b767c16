"""A function of this package in a process of its own, with limits on time and memory.

What the process runs may crash it or never end; the caller gets one error then.
"""

from __future__ import annotations

import importlib
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_sparse.errors import PLEASE_REPORT, LimitError, TvmSparseError, reason
from tvm_sparse.files import scratch_folder
from tvm_sparse.runtime import children
from tvm_sparse.runtime.isolated import CommandError, IsolatedProcess, ProcessDied, serve

_log = logging.getLogger("tvm_sparse")

_NO_LIMIT = 1e6
"""Seconds that nothing takes."""


def call(
    function: str, arguments: Mapping[str, Any], seconds: float | None, gigabytes: float | None
) -> Any:
    """Call a function in another process and return its result.

    Parameters
    ----------
    function : str
        The name of a module of this package, a colon, and the name of a function there.
    arguments : mapping of str to object
        The arguments by name; they and the result must be picklable.
    seconds, gigabytes : float or None
        The time that it may take, and the memory that it may have for data; None is no limit.

    Raises
    ------
    LimitError
        If it takes longer or crashes.
    TvmSparseError
        What the function raises.
    """
    with scratch_folder() as folder, IsolatedProcess(__name__) as process:
        (folder / "arguments").write_bytes(pickle.dumps(dict(arguments)))
        try:
            process.call(
                "call",
                seconds or _NO_LIMIT,
                function=function,
                folder=str(folder),
                gigabytes=gigabytes,
            )
        except ProcessDied as error:
            raise LimitError(_died(str(error), seconds, gigabytes)) from error
        except CommandError as error:
            raise TvmSparseError(f"{error}. {PLEASE_REPORT}") from error
        is_error, result, warnings = pickle.loads((folder / "result").read_bytes())
    for level, message in warnings:
        _log.log(level, "%s", message)
    if is_error:
        raise result
    return result


def _died(how: str, seconds: float | None, gigabytes: float | None) -> str:
    if "no answer" in how:
        return f"not done after {seconds:g} s; give it more with limit_time="
    more = "" if gigabytes is None else f"if it needed more than {gigabytes:g} GB, see "
    return (
        f"the compiler {how}; {more and f'{more}limit_memory=, or else '}please report it, with "
        "the model"
    )


class _Commands:
    """What the process can be asked for."""

    def call(self, function: str, folder: str, gigabytes: float | None) -> None:
        """Call a function with the arguments in a file, and write what it returns or raises."""
        arguments = pickle.loads((Path(folder) / "arguments").read_bytes())
        module, name = function.split(":")
        called = getattr(importlib.import_module(module), name)
        warnings = _Warnings()
        _log.addHandler(warnings)
        if gigabytes is not None:
            children.limit_memory(gigabytes)
        result: Any
        try:
            is_error, result = False, called(**arguments)
        except TvmSparseError as error:
            is_error, result = True, error
        # What is out of memory raises errors of any kind, such as that of a module.
        except Exception as error:
            if gigabytes is None:
                raise
            why = f"{reason(error)}; if it needs more than {gigabytes:g} GB, see limit_memory="
            is_error, result = True, LimitError(why)
        (Path(folder) / "result").write_bytes(pickle.dumps((is_error, result, warnings.found)))


class _Warnings(logging.Handler):
    """Keeps what is logged, for the process that has the user's handlers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.levelno, record.getMessage()))


if __name__ == "__main__":
    serve(_Commands())
