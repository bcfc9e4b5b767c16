"""Compiles untrained image networks of all architectures of timm, and compares them.

    python benchmarks/architectures.py                        # pruned to 80 % zeros: some hours
    python benchmarks/architectures.py swin_tiny_patch4_window7_224 --zeros 0.9
    python benchmarks/architectures.py --python ~/torch/bin/python

Of each architecture it takes the smallest model, which PyTorch exports. `--python` names a Python
that has the packages torch and timm. What is done with a model, and the table, are those of
`corpus.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from corpus import add_options, examine_all
from corpus_models import Model
from corpus_models.signals import image
from scripts import run_script

from tvm_sparse.errors import InputError, TvmSparseError
from tvm_sparse.files import replacing

EXPORTER = Path(__file__).with_name("timm_models.py")


class ExportError(TvmSparseError):
    """PyTorch could not write a model."""


def models(python: str, cache: Path) -> dict[str, Model]:
    """Return the smallest model of each architecture, by name."""
    path = cache / "models.json"
    if not path.exists():
        listed = _exporter(python, "list").splitlines()[-1]
        with replacing(path) as temporary:
            temporary.write_text(listed)
    known: dict[str, Any] = json.loads(path.read_text())
    return {
        model["name"]: Model(
            model["name"], f"timm=={known['version']}", "", partial(_inputs, *model["shape"][1:])
        )
        for model in known["models"]
    }


def _inputs(*size: int) -> dict[str, Any]:
    return {"x": image(*size)}


def exported(model: Model, python: str, cache: Path) -> Path:
    """Return the ONNX file of a model; it is written if the cache does not have it."""
    path = cache / "files" / model.package / f"{model.name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            _exporter(python, "export", model.name, str(temporary))
    return path


def _exporter(python: str, *arguments: str) -> str:
    command = [python, str(EXPORTER), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it failed"])[-1]
        raise ExportError(f"{' '.join(arguments)} by PyTorch and timm of {python}: {last}")
    return result.stdout


def main() -> None:
    """Parse the command line, examine the models, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help="names of timm's models")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch and timm")
    cache = Path("~/.cache/tvm-sparse/architectures")
    add_options(parser, zeros=0.8, cache=cache)
    arguments = parser.parse_args()
    arguments.cache = arguments.cache.expanduser()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    known = models(arguments.python, arguments.cache)
    if unknown := sorted(set(arguments.names) - set(known)):
        raise InputError(f"unknown model {unknown[0]!r}; the models are {', '.join(known)}")
    chosen = [known[name] for name in arguments.names or known]
    examine_all(chosen, partial(exported, python=arguments.python), arguments)


if __name__ == "__main__":
    run_script(main)
