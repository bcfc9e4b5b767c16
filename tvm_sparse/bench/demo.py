"""The demonstration: pruned BERT-base and ResNet-50, compiled, checked and measured.

Weights are seeded, so nothing is downloaded; the latency depends only on the places of the zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_sparse.bench import comparison, peers
from tvm_sparse.bench.results import Comparison
from tvm_sparse.files import scratch_folder
from tvm_sparse.zoo import recipes

MODELS = ("bert-base-95", "bert-base-80", "resnet50-95")


def run(
    threads: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
    names: Sequence[str] = MODELS,
    seconds: float = 0.5,
) -> list[Comparison]:
    """Build, compile, check against ONNX Runtime, and measure each model.

    Parameters
    ----------
    threads : int, optional
        The number of threads of every engine; by default all usable cores.
    progress : callable
        Called with a line of text before each step.
    names : sequence of str
        Names of models in `tvm_sparse.zoo.recipes`.
    seconds : float
        The seconds of an engine's turn in a round.

    Returns
    -------
    list of Comparison
        One for each model, with every engine that is installed here.
    """
    engines = [engine for engine in (peers.OURS, *peers.PEERS) if _is_installed(engine)]
    comparisons = []
    for name in names:
        recipe = recipes.recipe(name)
        with scratch_folder() as folder:
            progress(f"{name}: building the model")
            path = recipe.build(folder / f"{name}.onnx")
            comparisons.append(
                comparison.compare(
                    path,
                    recipe.shapes,
                    engines=engines,
                    threads=threads,
                    seconds=seconds,
                    progress=_prefixed(progress, name),
                )
            )
    return comparisons


def _prefixed(progress: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda step: progress(f"{name}: {step}")


def _is_installed(engine: str) -> bool:
    try:
        peers.find_python(engine)
    except peers.PeerError:
        return False
    return True
