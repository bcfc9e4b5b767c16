"""Gradual magnitude pruning with masks, and training with distillation, in plain PyTorch.

The share of zeros follows the cubic curve of Zhu and Gupta, "To prune, or not to prune"
(arXiv 1710.01878): much is pruned early, while the network can still recover. The teacher is the
dense network, as in Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network"
(arXiv 1503.02531). Masks that stay while another task is learned are the sparse transfer of
Kurtic and others, "The Optimal BERT Surgeon" (arXiv 2203.07259).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Masks:
    """The zeros of a network, which stay zeros while it is trained.

    Parameters
    ----------
    network : nn.Module
        The network.
    dense : collection of str
        The names of layers that stay dense.
    """

    def __init__(self, network: nn.Module, dense: tuple[str, ...] = ()) -> None:
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
    data: tuple[torch.Tensor, torch.Tensor],
    recipe: Mapping[str, Any],
    teacher: nn.Module | None = None,
    masks: Masks | None = None,
) -> None:
    """Train a network; with masks and a part `pruning` in the recipe, prune it meanwhile.

    Parameters
    ----------
    network : nn.Module
        The network, in place.
    data : tuple of torch.Tensor
        Inputs and labels.
    recipe : mapping
        As `recipe.yaml`; without `pruning`, the zeros of `masks` stay as they are.
    teacher : nn.Module, optional
        The network whose answers count, too.
    masks : Masks, optional
        The zeros.
    """
    training, softly = recipe["training"], recipe["distillation"]
    inputs, labels = data
    optimizer = torch.optim.Adam(network.parameters(), training["learning_rate"])
    steps = training["epochs"] * -(-len(inputs) // training["batch"])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for epoch in range(training["epochs"]):
        if masks is not None and "pruning" in recipe:
            masks.prune(shares_at(epoch, masks, recipe["pruning"]))
        for batch in torch.randperm(len(inputs)).split(training["batch"]):
            answers = network(inputs[batch])
            loss = functional.cross_entropy(answers, labels[batch])
            if teacher is not None:
                with torch.no_grad():
                    known = teacher(inputs[batch])
                heat, weight = softly["temperature"], softly["weight"]
                apart = functional.kl_div(
                    functional.log_softmax(answers / heat, 1),
                    functional.log_softmax(known / heat, 1),
                    log_target=True,
                    reduction="batchmean",
                )
                loss = (1 - weight) * loss + weight * heat**2 * apart
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            if masks is not None:
                masks.apply()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the share of inputs whose label the network finds."""
    inputs, labels = data
    return float((network(inputs).argmax(1) == labels).float().mean())
