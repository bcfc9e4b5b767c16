"""The lanes of panels that are worth a trial for a network on tokens."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.records.keys import key_on, network_key
from tvm_sparse.records.lookups import TokenNetwork
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import default_family
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.devices import Arguments
from tvm_sparse.tuning.model import ModelSubject
from tvm_sparse.tuning.part import Part, Setting
from tvm_sparse.tuning.task import Task

MOST_VECTORS = 8
"""The most vectors of a block of tokens that are tried."""


@dataclass(frozen=True)
class LanesCandidate:
    """Lanes of panels, and the expected time of the linear layers with them.

    Attributes
    ----------
    lanes : int
        The tokens of a block.
    seconds : float
        The sum of the layers' times as the cost models predict them, with all cores at work.
    """

    lanes: int
    seconds: float


def lanes_candidates(
    network: TokenNetwork, cpu: CpuProfile, hopeless: float
) -> list[LanesCandidate]:
    """Return the lanes to try: the default, then the others in the order of the expected time.

    The list is empty if one vector holds all tokens. The expected cycles know the padding and the
    groups, but not how many vectors share a weight that is loaded, so that the order is a rough
    one.

    Parameters
    ----------
    network : TokenNetwork
        The linear layers on tokens.
    cpu : CpuProfile
        The processor.
    hopeless : float
        Lanes that are expected to take so many times as long as the best are left out.
    """
    vector = cpu.vector_lanes(cpu.activations)
    if network.tokens <= vector:
        return []
    default = cpu.panel_lanes(network.tokens, cpu.activations)
    whole = -(-network.tokens // vector)
    sizes = {vector * count for count in range(1, min(MOST_VECTORS, whole) + 1)}
    found = [LanesCandidate(lanes, _seconds(network, lanes, cpu)) for lanes in {default, *sizes}]
    least = min(candidate.seconds for candidate in found)
    found = [c for c in found if c.lanes == default or c.seconds <= hopeless * least]
    return sorted(found, key=lambda c: (c.lanes != default, c.seconds))


def _seconds(network: TokenNetwork, lanes: int, cpu: CpuProfile) -> float:
    cycles = 0.0
    for batch, tokens, depth, channels, density in network.layers:
        rows = batch * -(-tokens // lanes)
        layer = Layer(Linear(rows, lanes, channels, depth, cpu.activations), density)
        family = default_family(layer, cpu)
        cycles += family.cycles(layer, family.default(layer, cpu), cpu)
    return cycles / cpu.memory_system.clock_hz / cpu.cores


@one_at_a_time
def lanes_parts(
    mod: tvm.IRModule, subject: ModelSubject, arguments: Arguments, setting: Setting
) -> list[Part]:
    """Return the part that chooses the lanes; an empty list if there is no choice.

    Parameters
    ----------
    mod : IRModule
        The model, from `tvm_sparse.passes.pipeline.canonical`.
    subject : ModelSubject
        The same model, to build.
    arguments : Arguments
        The inputs of the model.
    setting : Setting
        The setting of the run.
    """
    cpu = setting.cpu
    network = token_network(mod, cpu)
    plans = lanes_candidates(network, cpu, setting.hopeless)[: setting.most + 1]
    if len(plans) < 2:
        return []
    task = Task(
        network.name,
        key_on(network_key(network), cpu),
        tuple({"lanes": plan.lanes} for plan in plans),
        subject.build,
        arguments,
    )
    return [Part("lanes", task)]
