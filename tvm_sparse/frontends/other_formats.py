"""Files that are taken for ONNX models by mistake: what they are, and what to do with them."""

from __future__ import annotations

import zipfile
from pathlib import Path

_EXPORT = "load it into its module and write an ONNX file with torch.onnx.export"

_OF_ZIP = (
    ("archive_format", "a program of torch.export: compile torch.export.load(FILE).module() with "
     "example inputs, or write an ONNX file with torch.onnx.export"),
    ("constants.pkl", "a TorchScript program: write an ONNX file from the module that it was made "
     "of, with torch.onnx.export"),
    ("data.pkl", f"a PyTorch checkpoint, which has weights and no graph: {_EXPORT}"),
)  # fmt: skip
"""A file that an archive of PyTorch has, the last part of its path, and what the archive is."""

_BEGINNINGS = {
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19": f"a PyTorch checkpoint: {_EXPORT}",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it: write an ONNX file with tf2onnx",
    b"\x7fELF": "a shared library: `tvm-sparse run` and tvm_sparse.load take compiled ones",
}
"""How formats begin, and what they are."""

_MARKS = {
    b"ORTM": "a model in ONNX Runtime's own format: compile the ONNX file that it was made of",
    b"TFL3": "a TensorFlow Lite model: write an ONNX file with tf2onnx",
}
"""What stands behind the first four bytes of a flatbuffer, and what that is."""


def other_format(path: Path) -> str:
    """Return what a file is and what to do with it, or nothing if it may be an ONNX model.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for beginning, what in _BEGINNINGS.items():
        if head.startswith(beginning):
            return what
    if head[4:8] in _MARKS:
        return _MARKS[head[4:8]]
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return (
            "a safetensors file, which has weights and no graph: give the folder of a language "
            f"model that has a config.json, or {_EXPORT}"
        )
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
        return next((what for name, what in _OF_ZIP if name in names), "a zip archive")
    return ""
