"""The files of benchmarks/decode.py: one seeded language model, for each engine and form."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tvm_sparse.testing.gguf_files import write_gguf
from tvm_sparse.zoo import recipes
from tvm_sparse.zoo.decoders import LLAMA_01B, LLAMA_05B, LLAMA_1B, LLAMA_TINY, RandomDecoder

CONFIGS = {"tiny": LLAMA_TINY, "0.1b": LLAMA_01B, "0.5b": LLAMA_05B, "1.1b": LLAMA_1B}


@dataclass(frozen=True)
class Files:
    """Where the files of a model lie.

    Attributes
    ----------
    shape : str
        A key of `CONFIGS`.
    cache : Path
        The folder of all files.
    quantizer : Path, optional
        The program ``llama-quantize``.
    """

    shape: str
    cache: Path
    quantizer: Path | None = None

    def onnx(self, zeros: str) -> Path:
        """Return the int4 model in onnxruntime-genai's form; `zeros` ends the name of a recipe."""
        name = self._name(zeros)
        path = self.cache / f"{name}.onnx"
        return path if path.exists() else recipes.recipe(name).build(path)

    def _name(self, zeros: str) -> str:
        """Return the name of a recipe; zeros such as ``g128-70`` say the size of blocks."""
        return f"llama-{self.shape}-int4{'' if zeros.startswith('g') else '-'}{zeros}"

    def library(self, zeros: str, threads: int) -> Path:
        """Return the compiled model; it is compiled again if the compiler has changed."""
        path = self.cache / f"{self._name(zeros)}-{threads}-{_compiler()}.so"
        if not path.exists():
            verb = [sys.executable, "-m", "tvm_sparse", "compile", self.onnx(zeros), "-o", path]
            subprocess.run([*verb, "--threads", str(threads)], check=True)
        return path

    def gguf(self, kind: str) -> Path:
        """Return the dense model in a type of llama.cpp, of which all matrices are if it can be."""
        path = self.cache / f"llama-{self.shape}-{kind}.gguf"
        if path.exists():
            return path
        whole = self.cache / f"llama-{self.shape}-f16.gguf"
        if not whole.exists():
            config = CONFIGS[self.shape]
            write_gguf(whole, config, RandomDecoder(config), "F16")
        assert self.quantizer is not None
        # K-quants fall back to other types for some shapes; --pure would refuse those.
        pure = ["--pure"] if kind == "Q4_0" else []
        subprocess.run([self.quantizer, *pure, whole, path, kind], check=True, capture_output=True)
        return path


@functools.cache
def _compiler() -> str:
    """Return a name for the sources of the compiler."""
    found, root = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for folder in ("tvm_sparse", "passes", "schedules"):
        for path in sorted((root / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:8]
