"""Arguments that several verbs share: how they are declared, parsed and read.

Modules that need TVM, numpy or rich are imported inside of functions, here and in the verbs, so
that ``--help`` and mistakes in the arguments are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from tvm_sparse.errors import RemoteError, printable

if TYPE_CHECKING:
    from tvm_sparse.records.best import RecordedPlans
    from tvm_sparse.runtime.board import Board

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The verbs of a parser, to which `add_verb` adds one."""


class Parser(argparse.ArgumentParser):
    """Reads a command line; a mistake in it is one line, as every other mistake is."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end the program with status 2."""
        what = printable(message.removeprefix("argument "))
        self.exit(2, f"error: {what}; see `{self.prog} --help`\n")


def add_verb(
    verbs: Verbs, name: str, does: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add a verb to the command line.

    Parameters
    ----------
    verbs : argparse action
        The verbs so far.
    name : str
        The verb.
    does : str
        What it does, as a clause in the third person; it stands in ``--help``.
    run : callable
        Called with the parsed options.

    Returns
    -------
    ArgumentParser
        The verb's parser, for its arguments.
    """
    command = verbs.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
    command.add_argument("--debug", action="store_true", help="print where an error comes from")
    command.set_defaults(verb=run)
    return command


def add_model(command: argparse.ArgumentParser) -> None:
    """Declare the model, the shapes of its inputs, and the target."""
    command.add_argument(
        "model", type=Path, metavar="MODEL", help="ONNX file, GGUF file, or folder of Hugging Face"
    )
    command.add_argument(
        "--shape", type=input_shape, action="append", default=[], metavar="NAME=1,128",
        help="shape of an input that has dynamic dimensions; compile takes names for some of them, "
        "as in NAME=batch,sequence, which each inference then chooses",
    )  # fmt: skip
    command.add_argument(
        "--target", default="native", metavar="NAME",
        help="CPU to compile for; `tvm-sparse targets` lists them; +fp16, -fp16, +amx and -amx may "
        "stand behind it (default: this one)",
    )  # fmt: skip


def add_sizes(command: argparse.ArgumentParser) -> None:
    """Declare what is known of dimensions that each inference chooses."""
    add_hints(command)
    command.add_argument(
        "--bound", type=named_size, action="append", default=[], metavar="NAME=512",
        help="largest size that such a dimension may have",
    )  # fmt: skip


def add_hints(command: argparse.ArgumentParser) -> None:
    """Declare the sizes that are planned for."""
    command.add_argument(
        "--hint", type=named_sizes, action="append", default=[], metavar="NAME=64",
        help="size to plan for of a dimension that each inference chooses (default: 1 for the "
        "first dimension, 64 for others); of several, as in batch=1,8, each gets a plan",
    )  # fmt: skip


def add_padding(command: argparse.ArgumentParser) -> None:
    """Declare what becomes of padded tokens."""
    command.add_argument(
        "--padding", default="auto", metavar="auto|keep|drop",
        help="tokens that an attention mask leaves out: drop computes them no more, and gives "
        "zeros for them; auto does so if no output has an axis of tokens (default: auto)",
    )  # fmt: skip


SMALL_NETWORKS = "one for a small network, else all usable cores"
"""The threads that compiled code runs on by default."""


def add_threads(command: argparse.ArgumentParser, default: str = "all usable cores") -> None:
    """Declare the number of threads."""
    command.add_argument("--threads", type=int, metavar="N", help=f"threads (default: {default})")


def add_precision(command: argparse.ArgumentParser) -> None:
    """Declare what activations are computed in."""
    command.add_argument(
        "--precision", default="float32", metavar="float32|float16|auto",
        help="what activations are computed in: auto is the fastest that the target has "
        "(default: float32)",
    )  # fmt: skip


def add_board(command: argparse.ArgumentParser, which: str) -> None:
    """Declare the board to measure on; `which` says how many boards of a tracker are used."""
    command.add_argument(
        "--rpc", type=host_and_port, metavar="HOST:PORT",
        help="measure on the board whose TVM RPC server listens there",
    )  # fmt: skip
    command.add_argument(
        "--tracker", type=host_and_port, metavar="HOST:PORT",
        help=f"measure on {which} of this TVM RPC tracker, with --key",
    )  # fmt: skip
    command.add_argument("--key", metavar="NAME", help="which kind of board")


def add_columns(command: argparse.ArgumentParser) -> None:
    """Declare the options of tensor columns."""
    command.add_argument(
        "--columns", type=column_rows, default="auto", metavar="auto|off|N",
        help="run regions column by column: of as many rows as the cost model says (default), "
        "not at all, or of N rows",
    )  # fmt: skip
    command.add_argument(
        "--overlap", default="auto", metavar="auto|recompute|carry",
        help="rows that two steps of a column need: as the cost model says (default), "
        "computed again, or kept",
    )  # fmt: skip


def add_records(command: argparse.ArgumentParser) -> None:
    """Declare the file of tuning records to read."""
    command.add_argument(
        "--records", metavar="FILE|off",
        help="what `tvm-sparse tune` found (default: the user's data folder's file, if any)",
    )  # fmt: skip


def add_calibration(command: argparse.ArgumentParser) -> None:
    """Declare the file of inputs on which models are compared and ranges are measured."""
    command.add_argument(
        "--calibration", type=Path, metavar="FILE.npz",
        help="every input by name, to verify on and to find the layers that float16 cannot hold "
        "(default: random inputs that fit the graph)",
    )  # fmt: skip


def add_json(command: argparse.ArgumentParser) -> None:
    """Declare that the result is printed as JSON."""
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def input_shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """Return the name and the shape in ``NAME=1,128`` or ``NAME=batch,128``."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = (size if size.isidentifier() else int(size) for size in sizes.split(","))
        return _named(name), tuple(shape)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like input_ids=1,128") from None


def named_size(text: str) -> tuple[str, int]:
    """Return the name and the number in ``NAME=128``."""
    name, _, size = text.rpartition("=")
    try:
        return _named(name), int(size)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like sequence=128") from None


def named_sizes(text: str) -> tuple[str, int | list[int]]:
    """Return the name and the number in ``NAME=128``, or the numbers in ``NAME=1,8``."""
    name, _, sizes = text.rpartition("=")
    try:
        found = [int(size) for size in sizes.split(",")]
        return _named(name), found if len(found) > 1 else found[0]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like sequence=128") from None


def column_rows(text: str) -> str | int:
    """Return a number of rows as a number, and any other text as it is."""
    try:
        return int(text)
    except ValueError:
        return text


def input_file(text: str) -> tuple[str, Path]:
    """Return the name and the file in ``NAME=FILE.npy``."""
    name, _, path = text.partition("=")
    try:
        return _named(name), Path(_named(path))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like input_ids=ids.npy") from None


def host_and_port(text: str) -> tuple[str, int]:
    """Return the host and the port in ``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 192.168.1.20:9090")
    return host.strip("[]"), int(port)


def _named(text: str) -> str:
    if not text:
        raise ValueError
    return text


def board(options: argparse.Namespace) -> Board | None:
    """Return the board that the options name, or None for this machine."""
    if (options.tracker is None) != (options.key is None):
        raise RemoteError("--tracker HOST:PORT and --key NAME belong together")
    if options.rpc and options.tracker:
        raise RemoteError("--rpc names a board, --tracker asks for one: give one of them")
    address = options.rpc or options.tracker
    if address is None:
        return None
    from tvm_sparse.runtime.board import Board

    host, port = address
    return Board(host, port, options.key)


def recorded_plans(records: str | None) -> RecordedPlans:
    """Return the plans that ``--records`` names: none if it is ``off``."""
    from tvm_sparse.records.best import RecordedPlans

    if records == "off":
        return RecordedPlans()
    return RecordedPlans.read(None if records is None else Path(records))


def read_files(options: argparse.Namespace) -> list[Path]:
    """Return the files that the options name as inputs; no result of the verb may replace one."""
    from tvm_sparse.errors import OutputError

    given = vars(options)
    found = [given[name] for name in ("library", "calibration") if given.get(name)]
    found += [path for _, path in given.get("input", ())]
    if given.get("model"):
        from tvm_sparse.frontends.model_files import ModelFiles

        found += ModelFiles(given["model"])
    records = given.get("records", "off")
    if records is None:
        from tvm_sparse.records.file import default_path

        with contextlib.suppress(OutputError):
            found.append(default_path())
    elif str(records) != "off":
        found.append(Path(records))
    return found


def compile_options(options: argparse.Namespace) -> dict[str, str | int]:
    """Return the options of columns and precision as arguments of `tvm_sparse.compile`."""
    return {
        "columns": options.columns, "overlap": options.overlap, "precision": options.precision
    }  # fmt: skip
