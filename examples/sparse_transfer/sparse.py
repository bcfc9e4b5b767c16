"""Gradual magnitude pruning with masks, in plain PyTorch.

The share of zeros follows the cubic curve of Zhu and Gupta, "To prune, or not to prune"
(arXiv 1710.01878): much is pruned early, while the network can still recover. Masks that stay while
another task is learned are the sparse transfer of Kurtic and others, "The Optimal BERT Surgeon"
(arXiv 2203.07259).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class Masks:
    """The zeros of a network, which stay zeros while it is trained.

    Parameters
    ----------
    network : nn.Module
        The network.
    dense : collection of str
        The names of layers that stay dense.
    """

    def __init__(self, network: nn.Module, dense: Sequence[str] = ()) -> None:
        self.weights = {
            name: layer.weight
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and name not in dense
        }
        self.kept = {name: weight.data != 0 for name, weight in self.weights.items()}

    def prune(self, shares: Mapping[str, float]) -> None:
        """Prune each layer to a share of zeros: its smallest weights go, and none comes back."""
        for name, share in shares.items():
            weight, kept = self.weights[name].data, self.kept[name]
            count = round((1 - share) * weight.numel())
            best = torch.topk((weight.abs() * kept).flatten(), count).indices
            now = torch.zeros(weight.numel(), dtype=torch.bool)
            now[best] = True
            self.kept[name] = now.view_as(weight) & kept
        self.apply()

    def apply(self) -> None:
        """Set what is not kept to zero; to be called after each step of the optimizer."""
        for name, weight in self.weights.items():
            weight.data.mul_(self.kept[name])

    @property
    def zeros(self) -> float:
        """The share of zeros in the layers that are pruned."""
        kept = sum(int(kept.sum()) for kept in self.kept.values())
        return 1 - kept / sum(kept.numel() for kept in self.kept.values())


def shares_at(epoch: float, masks: Masks, pruning: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of zeros of each layer at a time, by the recipe."""
    first, last, initial = pruning["first_epoch"], pruning["last_epoch"], pruning["initial"]
    if epoch < first:
        return {}
    left = 1 - min((epoch - first) / (last - first), 1)
    finals = {name: pruning["final"] for name in masks.weights} | pruning.get("layers", {})
    return {name: final + (initial - final) * left**3 for name, final in finals.items()}


def train(
    network: nn.Module,
    batches: Callable[[], Sequence[Any]],
    loss: Callable[[Any], torch.Tensor],
    recipe: Mapping[str, Any],
    masks: Masks | None = None,
) -> None:
    """Train a network; with masks and a part `pruning` in the recipe, prune it meanwhile.

    Parameters
    ----------
    network : nn.Module
        The network, in place.
    batches : function
        Returns the batches of one epoch.
    loss : function
        What a batch costs.
    recipe : mapping
        As `recipe.yaml`; without `pruning`, the zeros of `masks` stay as they are.
    masks : Masks, optional
        The zeros.
    """
    training, pruning = recipe["training"], recipe.get("pruning")
    optimizer = torch.optim.Adam(network.parameters(), training["learning_rate"])
    network.train()
    for epoch in range(training["epochs"]):
        data = batches()
        for step, batch in enumerate(data):
            now = epoch + step / len(data)
            if masks is not None and pruning and step % pruning["every"] == 0:
                masks.prune(shares_at(now, masks, pruning))
            for group in optimizer.param_groups:
                group["lr"] = training["learning_rate"] * rate_at(now / training["epochs"])
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
            if masks is not None:
                masks.apply()
    network.eval()


def rate_at(done: float) -> float:
    """Return the share of the learning rate: a short rise, then a straight way down to nothing."""
    return min(done / 0.03, 1) * (1 - done)
