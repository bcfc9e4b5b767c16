"""What is mutated: models, libraries, records and arrays, and the command that reads each."""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tvm_sparse.runtime.seal import add_seal
from tvm_sparse.testing.mutants import fields, graphs, raw_bytes
from tvm_sparse.testing.mutants.corpus import Corpus

Mutate = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes
    ----------
    seeds : callable
        Returns the files of the corpus that are mutated.
    mutate : callable
        Returns the content of a mutant, from that of a seed.
    command : callable
        Returns the words after ``tvm-sparse``, from the corpus, the mutant and the folder for
        outputs.
    """

    seeds: Callable[[Corpus], list[Path]]
    mutate: Mutate
    command: Callable[[Corpus, Path, Path], list[str]]


def _mutated_model(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.15:
        return raw_bytes.mutated(rng, content)
    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice((fields, graphs)).mutate(rng, model)
    return model.SerializeToString()


def _mutated_library(rng: random.Random, content: bytes) -> bytes:
    """Change bytes; or the description, under a checksum that fits, as a stranger could."""
    if rng.random() < 0.6:
        return raw_bytes.mutated(rng, content)
    footer = struct.Struct("<QII8s")
    length, described, _, _ = footer.unpack(content[-footer.size :])
    text = content[length : length + described]
    if rng.random() < 0.3:
        changed = raw_bytes.mutated(rng, text).decode(errors="replace")
    else:
        changed = json.dumps(_mutated_json(rng, json.loads(text)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        path.write_bytes(content[:length])
        add_seal(path, changed)
        return path.read_bytes()


def _mutated_records(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.3:
        return raw_bytes.mutated(rng, content)
    lines = content.decode().splitlines()
    # A plan is used only if it was the fastest, so plans change in all lines at once.
    share = rng.choice((0.2, 1.0))
    change = rng.getrandbits(64)
    for at, line in enumerate(lines):
        if rng.random() < share:
            same = random.Random(change if share == 1 else rng.getrandbits(64))
            lines[at] = json.dumps(_mutated_json(same, json.loads(line)))
    if rng.random() < 0.2:
        rng.shuffle(lines)
    return "\n".join(lines).encode()


def _mutated_array(rng: random.Random, content: bytes) -> bytes:
    """Change bytes, most of them in the header, where the shape and the type stand."""
    if rng.random() < 0.5:
        return raw_bytes.mutated(rng, content)
    start, end = content.index(b"{"), content.index(b"}") + 1
    header = content[start:end]
    old, new = rng.choice(_HEADER_CHANGES)
    if old not in header:
        return content[:start] + raw_bytes.mutated(rng, header) + content[end:]
    changed = header.replace(old, new)
    room = content[end:].index(b"\n") + len(header)  # the header is padded with spaces
    if rng.random() < 0.8 and len(changed) <= room:
        return content[:start] + changed.ljust(room) + content[start + room :]
    return content[:start] + changed + content[end:]


_HEADER_CHANGES = (
    (b"<f4", b"<f8"), (b"<f4", b">f4"), (b"<f4", b"|O"), (b"<f4", b"<M8[s]"), (b"<f4", b"|V0"),
    (b"<f4", b"<U1"), (b"<f4", b"<c8"), (b"<f4", b"|b1"), (b"<f4", b"<f2"), (b"<f4", b"|S0"),
    (b"False", b"True"), (b"False", b"None"), (b"(", b"(-"), (b"(", b"(9223372036854775807, "),
    (b"(", b"(0, "), (b"(", b"(1, "), (b"(5, ", b"(2.5, "), (b"shape", b"shap"), (b"(", b"(" * 200),
    (b"5", b"__import__('os')"), (b"5", b"9" * 5000), (b"24", b"True"), (b"'", b""),
)  # fmt: skip


def _mutated_json(rng: random.Random, value: Any) -> Any:
    """Change one place of a value of JSON."""
    places: list[tuple[Any, Any]] = []

    def visit(inner: Any) -> None:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        for key in keys:
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                visit(inner[key])

    visit(value)
    owner, key = rng.choice(places)
    old = owner[key]
    what = rng.randrange(6)
    if what == 0:
        del owner[key]
    elif what == 1:
        owner[key] = rng.choice((None, True, "", "x", [], {}, [[]], 1.5, -1, 1e400, "\x1b[31m\n"))
    elif isinstance(old, int | float):
        owner[key] = rng.choice((*fields.WIDE, old + 1, old * 2, -old, old / 3))
    elif isinstance(old, str):
        owner[key] = rng.choice((old[:-1], old + "0", old.upper(), "native", "float16"))
    elif isinstance(old, list):
        owner[key] = rng.choice((old * 2, old[:-1], old[::-1], [old]))
    elif isinstance(old, dict):
        owner[key] = rng.choice((list(old), old | {"more": 1}))
    return value


def _of_model(corpus: Corpus, mutant: Path, folder: Path) -> list[str]:
    return ["compile", str(mutant), "-o", str(folder / "out.so"), "--records", "off"]


def _of_library(corpus: Corpus, mutant: Path, folder: Path) -> list[str]:
    given = ["--input", f"x={corpus.array}"]
    return ["run", str(mutant), *given, "-o", str(folder / "out.npz")]


def _of_records(corpus: Corpus, mutant: Path, folder: Path) -> list[str]:
    output = ["-o", str(folder / "out.so")]
    return ["compile", str(corpus.tuned), *output, "--records", str(mutant), "--threads", "1"]


def _of_array(corpus: Corpus, mutant: Path, folder: Path) -> list[str]:
    if mutant.suffix == ".npz":
        given = ["--calibration", str(mutant)]
        return ["verify", str(corpus.tuned), str(corpus.library), *given]
    given = ["--input", f"x={mutant}"]
    return ["run", str(corpus.library), *given, "-o", str(folder / "out.npz")]


KINDS: Mapping[str, Kind] = {
    "models": Kind(lambda corpus: corpus.models, _mutated_model, _of_model),
    "libraries": Kind(lambda corpus: [corpus.library], _mutated_library, _of_library),
    "records": Kind(lambda corpus: [corpus.records], _mutated_records, _of_records),
    "arrays": Kind(lambda corpus: [corpus.array, corpus.arrays], _mutated_array, _of_array),
}
"""The kinds by name."""
