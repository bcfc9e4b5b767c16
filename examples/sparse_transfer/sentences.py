"""Prunes a network for sentence embeddings while it learns from its dense self, and compiles it.

    python sentences.py MODEL TEXT OUT.onnx [--recipe sentences.yaml] [--half]

MODEL is a folder of Hugging Face with a BERT for sentence-transformers, TEXT a file with one
sentence a line. No labels are needed: the teacher is the dense network. A thousand of the sentences
are kept for the comparison at the end. Needs torch, transformers, onnxscript and pyyaml.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from sparse import Masks, train
from timing import milliseconds
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import tvm_sparse

HELD_OUT = 1000

Batch = dict[str, torch.Tensor]


class Encoder(nn.Module):
    """A transformer and the mean of its tokens, scaled to length one."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        # PyTorch's fused attention is slow in training on CPUs.
        self.body = AutoModel.from_pretrained(folder, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the vectors of sentences, ``(batch, features)``."""
        return self.all_layers(input_ids, attention_mask)[1]

    def all_layers(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        """Return the outputs of all layers, and the vectors."""
        found = self.body(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        wide = attention_mask[..., None].to(found.last_hidden_state.dtype)
        mean = (found.last_hidden_state * wide).sum(1) / wide.sum(1).clamp(min=1e-9)
        return found.hidden_states[1:], functional.normalize(mean, dim=1)


class Batches:
    """Sentences in batches of about the same length, in random order."""

    def __init__(self, sentences: Sequence[str], tokenizer: Any, size: int) -> None:
        self.sentences, self.tokenizer, self.size = sentences, tokenizer, size

    def __call__(self) -> list[Batch]:
        """Return the batches of an epoch."""
        shuffled = sorted(
            self.sentences, key=lambda sentence: len(sentence) * random.uniform(0.9, 1.1)
        )
        groups = [shuffled[i : i + self.size] for i in range(0, len(shuffled), self.size)]
        random.shuffle(groups)
        return [self.tokens(group) for group in groups]

    def tokens(self, sentences: Sequence[str]) -> Batch:
        """Return the arguments of the network for some sentences."""
        found = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        return {name: found[name] for name in ("input_ids", "attention_mask")}


def distance(
    student: Encoder, teacher: Encoder, batch: Batch, weights: Mapping[str, float], half: bool
) -> torch.Tensor:
    """Return how far a network is from its teacher: in its layers, vectors and similarities."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        with torch.no_grad():
            expected_layers, expected = teacher.all_layers(**batch)
        layers, vectors = student.all_layers(**batch)
    expected, vectors = expected.float(), vectors.float()
    real = batch["attention_mask"].bool()
    hidden = [
        functional.mse_loss(ours[real].float(), theirs[real].float()) / theirs[real].float().var()
        for ours, theirs in zip(layers, expected_layers, strict=True)
    ]
    similarities = functional.mse_loss(vectors @ vectors.T, expected @ expected.T)
    return (
        weights["hidden"] * torch.stack(hidden).mean()
        + weights["vectors"] * (1 - (vectors * expected).sum(1)).mean()
        + weights["similarities"] * similarities
    )


@torch.no_grad()
def all_vectors(network: Encoder, batches: Batches) -> torch.Tensor:
    """Return the vectors of all sentences, in their order."""
    groups = [
        batches.sentences[i : i + batches.size]
        for i in range(0, len(batches.sentences), batches.size)
    ]
    return torch.cat([network(**batches.tokens(group)) for group in groups])


def rank_correlation(vectors: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how alike two networks order pairs of sentences by similarity (Spearman).

    Each sentence is paired with those that the dense network puts at place 1, 10 and 100, and with
    one that it puts far away, so that the pairs reach from nearly equal to unrelated.
    """
    near = (expected @ expected.T).argsort(1, descending=True)
    places = [1, 10, min(100, len(expected) // 2), len(expected) - 1]
    first = torch.arange(len(expected)).repeat_interleave(len(places))
    second = near[:, places].flatten()
    ranks = [
        (each[first] * each[second]).sum(1).argsort().argsort().double()
        for each in (vectors, expected)
    ]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def export(network: Encoder, batch: Batch, path: Path) -> None:
    """Write an ONNX file that takes any number of sentences of any length."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
    torch.onnx.export(
        network, kwargs=batch, f=path, dynamo=True, verbose=False, external_data=False,
        output_names=["sentence_embedding"], dynamic_shapes=dict.fromkeys(batch, sizes),
    )  # fmt: skip


def row(name: str, network: Encoder, zeros: float, rank: float, path: Path, batch: Batch) -> str:
    """Compile a network and return its row of the table; the library must answer as it does."""
    export(network, batch, path)
    engine = tvm_sparse.compile(path, {name: tuple(each.shape) for name, each in batch.items()})
    arrays = {name: each.numpy() for name, each in batch.items()}
    with torch.no_grad():
        (answers,) = engine.run(arrays).values()
        torch.testing.assert_close(
            torch.from_numpy(answers), network(**batch), rtol=1e-3, atol=1e-3
        )
        eager = milliseconds(lambda: network(**batch))
    ours = milliseconds(lambda: engine.run(arrays))
    return f"| {name} | {zeros:.0%} | {rank:.3f} | {eager:.2f} | {ours:.2f} |"


def main() -> None:
    """Prune in one shot and step by step, compare, export, compile, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).parent
    parser.add_argument("model", help="folder of the dense network")
    parser.add_argument("text", type=Path, help="sentences, one a line")
    parser.add_argument("out", type=Path, help="ONNX file for the pruned network")
    parser.add_argument("--recipe", type=Path, default=here / "sentences.yaml")
    parser.add_argument("--half", action="store_true", help="train in bfloat16, for CPUs with AMX")
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text())
    torch.manual_seed(0)
    random.seed(0)

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    sentences = [line for line in options.text.read_text().splitlines() if line.strip()]
    random.shuffle(sentences)
    kept = min(HELD_OUT, len(sentences) // 5)
    size = recipe["training"]["batch"]
    learned, held_out = (
        Batches(some, tokenizer, size) for some in (sentences[kept:], sentences[:kept])
    )

    dense = Encoder(options.model).eval()
    expected = all_vectors(dense, held_out)
    left_dense = recipe["pruning"]["dense"]

    at_once = copy.deepcopy(dense)
    one_shot = Masks(at_once.body.encoder, left_dense)
    one_shot.prune(dict.fromkeys(one_shot.weights, recipe["pruning"]["final"]))
    one_shot_rank = rank_correlation(all_vectors(at_once, held_out), expected)

    pruned = copy.deepcopy(dense)
    for parameter in pruned.body.embeddings.parameters():
        parameter.requires_grad = False  # they are looked up, not multiplied
    masks = Masks(pruned.body.encoder, left_dense)
    start, step = time.monotonic(), 0

    def loss(batch: Batch) -> torch.Tensor:
        nonlocal step
        found = distance(pruned, dense, batch, recipe["distillation"], options.half)
        if step % 100 == 0:
            minutes = (time.monotonic() - start) / 60
            print(f"step {step}, {minutes:.1f} min: {masks.zeros:.0%} zeros, loss {found:.4f}",
                  flush=True)  # fmt: skip
        step += 1
        return found

    train(pruned, learned, loss, recipe, masks)
    rank = rank_correlation(all_vectors(pruned, held_out), expected)

    sample = learned.tokenizer(
        sentences[0], padding="max_length", max_length=128, truncation=True, return_tensors="pt"
    )
    batch = {name: sample[name] for name in ("input_ids", "attention_mask")}
    print("| network, 1 x 128 tokens | zeros | rank correlation | PyTorch ms | ours ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    scratch = options.out.with_suffix(".dense.onnx")
    print(row("dense", dense, 0, 1, scratch, batch), flush=True)
    print(row("pruned at once", at_once, one_shot.zeros, one_shot_rank, scratch, batch), flush=True)
    print(row("pruned step by step", pruned, masks.zeros, rank, options.out, batch), flush=True)
    scratch.unlink()


if __name__ == "__main__":
    main()
