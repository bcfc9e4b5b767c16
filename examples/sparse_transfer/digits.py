"""Prunes a convolutional network on handwritten digits, moves it to other digits, and compiles it.

    python digits.py [--recipe recipe.yaml] [--epochs N]

1. A dense network learns the digits 0 to 4.
2. A copy is pruned step by step while it learns from the dense one.
3. Sparse transfer: the pruned network gets a new head and learns the digits 5 to 9, with its zeros.
4. Both become libraries; a table shows accuracy and time beside the dense networks.

Needs torch, scikit-learn and pyyaml, and takes half a minute.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from sklearn.datasets import load_digits
from sparse import Masks, train
from timing import milliseconds
from torch import nn
from torch.nn import functional

import tvm_sparse

Data = tuple[torch.Tensor, torch.Tensor]

BATCH = 64

THREADS = 1


class Network(nn.Module):
    """A small network for images of 8 x 8 pixels and five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, 256)
        self.head = nn.Linear(256, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return five scores for each image ``(batch, 1, 8, 8)``."""
        x = torch.relu(self.middle(torch.relu(self.stem(x))))
        x = torch.relu(self.last(torch.max_pool2d(x, 2)))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def digits(first: int) -> tuple[Data, Data]:
    """Return five digits from `first` on, for training and for testing; labels count from 0."""
    found = load_digits()
    chosen = (found.target >= first) & (found.target < first + 5)
    images = torch.tensor(found.images[chosen] / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(found.target[chosen] - first)
    is_test = torch.arange(len(labels)) % 4 == 0
    return (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test])


def teach(
    network: nn.Module,
    data: Data,
    recipe: Mapping[str, Any],
    teacher: nn.Module | None = None,
    masks: Masks | None = None,
) -> None:
    """Train a network on labels, and on the answers of a teacher if there is one.

    The teacher is the dense network, as in Hinton, Vinyals and Dean, "Distilling the Knowledge in a
    Neural Network" (arXiv 1503.02531).
    """
    (inputs, labels), softly = data, recipe["distillation"]

    def loss(batch: torch.Tensor) -> torch.Tensor:
        answers = network(inputs[batch])
        right = functional.cross_entropy(answers, labels[batch])
        if teacher is None:
            return right
        with torch.no_grad():
            known = teacher(inputs[batch])
        heat, weight = softly["temperature"], softly["weight"]
        apart = functional.kl_div(
            functional.log_softmax(answers / heat, 1),
            functional.log_softmax(known / heat, 1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - weight) * right + weight * heat**2 * apart

    size = recipe["training"]["batch"]
    train(network, lambda: torch.randperm(len(inputs)).split(size), loss, recipe, masks)


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Return the share of inputs whose label the network finds."""
    inputs, labels = data
    return float((network(inputs).argmax(1) == labels).float().mean())


@torch.no_grad()
def compiled_row(name: str, network: nn.Module, test: Data) -> str:
    """Compile a network and return its row of the table; the library must answer as it does."""
    x = test[0][:BATCH].contiguous()
    engine = tvm_sparse.compile(network, (x,), threads=THREADS)
    (answers,) = engine(x.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(answers), network(x), rtol=1e-3, atol=1e-3)
    sparse = sum(layer.is_sparse for layer in engine.report.layers)
    eager = milliseconds(lambda: network(x))
    ours = milliseconds(lambda: engine(x.numpy()))
    zeros = Masks(network, ("stem", "head")).zeros
    return (
        f"| {name} | {zeros:.0%} | {accuracy(network, test):.1%} | {sparse} | {eager:.2f} | "
        f"{ours:.2f} |"
    )


def main() -> None:
    """Train, prune, transfer, compile, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).parent
    parser.add_argument("--recipe", type=Path, default=here / "recipe.yaml")
    parser.add_argument("--epochs", type=int, help="epochs of a training")
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text())
    if options.epochs:
        share = options.epochs / recipe["training"]["epochs"]
        recipe["training"]["epochs"] = options.epochs
        recipe["pruning"]["first_epoch"] *= share
        recipe["pruning"]["last_epoch"] *= share
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    left_dense = tuple(recipe["pruning"]["dense"])
    only_training = {key: part for key, part in recipe.items() if key != "pruning"}

    upstream, upstream_test = digits(0)
    dense = Network()
    teach(dense, upstream, only_training)

    pruned = copy.deepcopy(dense)
    teach(pruned, upstream, recipe, teacher=dense, masks=Masks(pruned, left_dense))

    downstream, downstream_test = digits(5)
    other_dense = copy.deepcopy(dense)
    other_dense.head = nn.Linear(256, 5)
    teach(other_dense, downstream, only_training)

    moved = copy.deepcopy(pruned)
    moved.head = nn.Linear(256, 5)
    zeros = Masks(moved, left_dense)
    teach(moved, downstream, only_training, teacher=other_dense, masks=zeros)
    assert Masks(moved, left_dense).zeros >= zeros.zeros, "a zero came back"

    print(f"| network, batch {BATCH} | zeros | accuracy | sparse layers | PyTorch ms | ours ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(compiled_row("digits 0 to 4, dense", dense, upstream_test))
    print(compiled_row("digits 0 to 4, pruned", pruned, upstream_test))
    print(compiled_row("digits 5 to 9, dense", other_dense, downstream_test))
    print(compiled_row("digits 5 to 9, transferred", moved, downstream_test))


if __name__ == "__main__":
    main()
