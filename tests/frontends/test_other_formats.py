"""What is taken for an ONNX file by mistake is called by its name, with what to do."""

import json
import struct
import zipfile

import pytest

import tvm_sparse
from tvm_sparse.errors import ModelError

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()


def archive(*names):
    """Return what writes a zip archive with files of these names in a folder."""

    def write(path):
        with zipfile.ZipFile(path, "w") as written:
            for name in names:
                written.writestr(f"model/{name}", b"")

    return write


def content(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("m.pt", archive("data.pkl", "version", "data/0"), "PyTorch checkpoint.*torch.onnx.export"),
        ("m.pt", archive("data.pkl", "constants.pkl"), "TorchScript program.*torch.onnx.export"),
        ("m.pt2", archive("archive_format"), r"torch\.export\.load\(FILE\)\.module\(\)"),
        ("m.onnx", archive("readme.txt"), "a zip archive"),
        ("m.pth", content(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"), "PyTorch check"),
        (
            "m.safetensors",
            content(struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)),
            r"safetensors.*config\.json, or .*torch.onnx.export",
        ),
        ("m.tflite", content(b"\x1c\0\0\0TFL3" + bytes(40)), "TensorFlow Lite"),
        ("m.ort", content(b"\x10\0\0\0ORTM" + bytes(40)), "ONNX Runtime's own format"),
        ("m.h5", content(b"\x89HDF\r\n\x1a\n" + bytes(40)), "HDF5"),
        ("m.so", content(b"\x7fELF" + bytes(60)), r"tvm_sparse\.load"),
    ],
)
def test_formats(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(ModelError, match=f"{name}: no ONNX model, but .*{message}"):
        tvm_sparse.compile(path)
