"""What pruning does to a trained convolutional network: text found on a page beside latency.

The text detector of PP-OCRv4 (Li et al. 2022, differentiable binarization), which the package
rapidocr-onnxruntime carries as an ONNX file, is pruned by magnitude without any training
afterwards and run on a rendered page, here and in ONNX Runtime. Its output is a map of the
probability that a pixel belongs to the core of a line of text.

    pip install -e '.[models]'
    pip install --no-deps rapidocr-onnxruntime      # only its model is read
    python benchmarks/text_detector.py
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sentences import PAIRS

import tvm_sparse
from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, PEERS, REFERENCE
from tvm_sparse.bench.results import Comparison
from tvm_sparse.bench.tables import to_json
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.pruning import SCOPES, prune

THRESHOLD = 0.3
"""Probability from which a pixel counts as text (config.yaml of rapidocr-onnxruntime, Det)."""

# ONNX Runtime's own optimization levels differ by 3e-4 here: the logits at borders are steep.
TOLERANCE = 1e-3

INPUT = "x"

Array = NDArray[np.float32]
Box = tuple[int, int, int, int]
Run = Callable[[Array], Array]


def model_path() -> Path:
    """Return the ONNX file; the package itself is never imported."""
    package = importlib.metadata.distribution("rapidocr-onnxruntime")
    return Path(str(package.locate_file("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx")))


@dataclass(frozen=True)
class Page:
    """A page of text.

    Attributes
    ----------
    pixels : numpy.ndarray
        Grey levels, (height, width) uint8.
    lines : tuple of Box
        Left, top, right and bottom of every line of text.
    """

    pixels: NDArray[np.uint8]
    lines: tuple[Box, ...]

    def network_input(self) -> Array:
        """Return the pixels from -1 to 1, (1, 3, height, width)."""
        scaled = self.pixels.astype(np.float32) / 127.5 - 1
        return np.repeat(scaled[None, None], 3, axis=1)


def render_page(height: int, width: int, sentences: Sequence[str]) -> Page:
    """Typeset sentences, one a line, from the top until the page is full; sizes alternate."""
    image = Image.new("L", (width, height), 250)
    draw, lines = ImageDraw.Draw(image), []
    margin, top = 32, 32
    for index, sentence in enumerate(sentences):
        size = (18, 24, 14, 20)[index % 4]
        font = ImageFont.load_default(size)
        words = sentence.split()
        while draw.textlength(" ".join(words), font) > width - 2 * margin:
            words.pop()
        if top + size > height - margin:
            break
        draw.text((margin, top), " ".join(words), fill=20, font=font)
        lines.append(_box(draw, (margin, top), " ".join(words), font))
        top += 2 * size
    return Page(np.asarray(image), tuple(lines))


def _box(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: ImageFont.FreeTypeFont
) -> Box:
    left, top, right, bottom = draw.textbbox(at, text, font)
    return int(left), int(top), int(right), int(bottom)


@dataclass(frozen=True)
class Quality:
    """How a detection map compares with that of the unpruned model.

    Attributes
    ----------
    overlap : float
        Intersection over union of the pixels that count as text.
    largest_change : float
        Largest absolute difference of a pixel's probability.
    lines : float
        Share of the page's lines whose core the map covers at least half of.
    """

    overlap: float
    largest_change: float
    lines: float


def quality(actual: Array, dense: Array, page: Page) -> Quality:
    """Compare two maps of probabilities, (height, width)."""
    found, expected = actual > THRESHOLD, dense > THRESHOLD
    union = np.count_nonzero(found | expected)
    overlap = np.count_nonzero(found & expected) / union if union else 1.0
    covered = [_core(found, box).mean() > 0.5 for box in page.lines]
    return Quality(overlap, float(np.abs(actual - dense).max()), float(np.mean(covered)))


def _core(found: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    """Return the middle half of a line's height: the maps leave out its border."""
    left, top, right, bottom = box
    quarter = (bottom - top) // 4
    return found[top + quarter : bottom - quarter, left:right]


def onnxruntime_run(path: Path) -> Run:
    """Return a function that runs an ONNX file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {INPUT: x})[0][0, 0]


def main() -> None:
    """Prune, compile, compare, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sparsity", type=int, nargs="+", default=[0, 10, 20, 30, 40, 50, 80],
                        metavar="PERCENT")  # fmt: skip
    parser.add_argument("--scope", choices=SCOPES, default="uniform", help="of the pruning")
    parser.add_argument("--height", type=int, default=960, help="of the page: a multiple of 32")
    parser.add_argument("--width", type=int, default=736, help="of the page: a multiple of 32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engines", nargs="+", choices=(OURS, *PEERS), default=(OURS, REFERENCE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--page", type=Path, help="image file to write the page to")
    parser.add_argument("--json", type=Path, help="file to write everything measured to")
    arguments = parser.parse_args()

    arguments.cache.mkdir(parents=True, exist_ok=True)
    page = render_page(
        arguments.height, arguments.width, [text for _, *two in PAIRS for text in two]
    )
    if arguments.page:
        Image.fromarray(page.pixels).save(arguments.page)
    dense = onnxruntime_run(model_path())(page.network_input())
    found = quality(dense, dense, page).lines
    if found < 0.9:
        raise RuntimeError(f"the unpruned model finds only {found:.0%} of the lines")

    titles = [f"{engine} ms" for engine in arguments.engines]
    print("| sparsity | zeros | overlap with dense | largest change | lines found | "
          + " | ".join(titles) + " |")  # fmt: skip
    print("|" + " ---: |" * (5 + len(titles)))
    records = []
    for percent in arguments.sparsity:
        path = arguments.cache / f"text-detector-{percent}.onnx"
        weights = prune(model_path(), path, percent / 100, arguments.scope)
        zeros = sum(w.zeros for w in weights) / sum(w.size for w in weights)
        comparison, actual = _measure(path, arguments, page.network_input())
        result = quality(actual, dense, page)
        print(_row(percent, zeros, result, comparison), flush=True)
        records.append((percent, result, comparison))
    if arguments.json:
        record = to_json([comparison for _, _, comparison in records])
        record["quality"] = {percent: dataclasses.asdict(q) for percent, q, _ in records}
        arguments.json.write_text(json.dumps(record, indent=1))


def _measure(path: Path, arguments: argparse.Namespace, x: Array) -> tuple[Comparison, Array]:
    """Return latencies, and the map from the first engine."""
    library, shapes = None, {INPUT: x.shape}
    if OURS in arguments.engines:
        library = path.with_suffix(".so")
        engine = tvm_sparse.compile(path, shapes, threads=arguments.threads)
        engine.save(library)
        (output,) = engine.run([x]).values()
        actual = output[0, 0]
    else:
        actual = onnxruntime_run(path)(x)
    comparison = compare(
        path, shapes, engines=arguments.engines, library=library, inputs={INPUT: x},
        threads=arguments.threads, rounds=arguments.rounds, tolerance=TOLERANCE,
    )  # fmt: skip
    return comparison, actual


def _row(percent: int, zeros: float, result: Quality, comparison: Comparison) -> str:
    cells = [f"{percent} %", f"{zeros:.0%}", f"{result.overlap:.3f}"]
    cells += [f"{result.largest_change:.2g}", f"{result.lines:.0%}"]
    cells += [
        f"{1e3 * m.minimum:.2f}" if m.rounds else m.failure.split(":")[0]
        for m in comparison.measurements
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
