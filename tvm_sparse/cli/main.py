"""The command line: a verb is a module of this package, which declares its arguments and runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from tvm_sparse.cli import (
    analyze,
    benchmark,
    compile,
    completion,
    demo,
    doctor,
    ending,
    generate,
    limits,
    prune,
    quantize,
    run,
    streams,
    targets,
    tune,
    verify,
)
from tvm_sparse.cli.arguments import Parser
from tvm_sparse.errors import TvmSparseError, is_out_of_memory, printable, reason

_NO_MEMORY = reason(MemoryError())
"""What errors of this package say where memory could not be had."""

VERBS = (
    compile, verify, tune, run, generate, benchmark, demo, analyze, prune, quantize, targets,
    doctor, completion,
)  # fmt: skip
"""The verbs in the order of ``--help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after ``tvm-sparse``; by default those of the process.

    Returns
    -------
    int
        The exit status: 0; 2 after a mistake of the user, which is one line on standard error; 130
        after Ctrl-C, and 128 and its number after another signal that ends the program; 141 if
        nobody reads standard output any more.
    """
    with streams.opened():
        options = _parser().parse_args(arguments)
        if arguments is None and "limit_time" in options:
            status = limits.in_child(options.limit_time, options.limit_memory)
            if status is not None:
                return status
        return _run(options, is_program=arguments is None)


def _run(options: argparse.Namespace, is_program: bool) -> int:
    try:
        if is_program:
            ending.by_signals()
        with ending.unwinding(), _warnings_on_stderr():
            options.verb(options)
    except ending.Ended as ended:
        return ended.status
    except TvmSparseError as error:
        _print_error(str(error), options.debug)
        _leave_without_memory(error, is_program)
        return 2
    except streams.StreamClosed:
        return streams.BROKEN_PIPE
    # Every error of this package is one line; what is left is a mistake of its own.
    except Exception as error:
        remedy = "please report it, with what --debug prints"
        if is_out_of_memory(error):
            remedy = "close other programs, or see --limit-memory"
        _print_error(f"{reason(error)}; {remedy}", options.debug)
        _leave_without_memory(error, is_program)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _leave_without_memory(error: BaseException, is_program: bool) -> None:
    """End the program at once where C++ ran out of memory: it may crash as it frees objects."""
    cause: BaseException | None = error
    while is_program and cause is not None:
        if is_out_of_memory(cause) or _NO_MEMORY in str(cause):
            sys.stderr.flush()
            os._exit(2)
        cause = cause.__cause__


def _print_error(text: str, debug: bool) -> None:
    """Print the error that is being handled: one line, below the traceback of its causes."""
    if debug:
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print each warning of the package's loggers as one line on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Printable("warning: %(message)s"))
    logger = logging.getLogger("tvm_sparse")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Printable(logging.Formatter):
    """Formats messages for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _parser() -> argparse.ArgumentParser:
    from tvm_sparse.version import __version__

    parser = Parser(
        prog="tvm-sparse", description="Compiles pruned networks to fast libraries for plain CPUs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.declare(verbs)
    return parser
