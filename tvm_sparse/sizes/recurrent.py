"""Sizes and rules of a recurrent layer: LSTM, GRU or RNN, as ONNX defines them."""

from __future__ import annotations

from dataclasses import dataclass

GATES = {"lstm": "iofc", "gru": "zrh", "rnn": "h"}
"""The gates of each cell, in the order in which ONNX stores their weights."""


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer whose product with the inputs is computed before.

    Attributes
    ----------
    cell : str
        ``lstm``, ``gru`` or ``rnn``.
    steps, batch, hidden : int
        Steps of the longest sequence, which may be an `Extent`, sequences, and hidden units of each
        direction.
    directions : int
        1, or 2 if a second direction reads the sequences from their ends.
    reverse : bool
        Whether a single direction reads the sequences from their ends.
    activations : str
        The activations of a direction, such as ``sigmoid tanh tanh``; all directions have the same.
    clip : float
        The inputs of activations are limited to this absolute value; 0 for no limit.
    input_forget : bool
        Whether the forget gate of an LSTM is one minus its input gate.
    linear_before_reset : bool
        Whether the reset gate of a GRU scales the recurrent product instead of the state.
    rounds : bool
        Whether the product of an LSTM reads the states of a step as integers of 8 bits, whose scale
        follows from their range over all sequences.
    """

    cell: str
    steps: int
    batch: int
    hidden: int
    directions: int = 1
    reverse: bool = False
    activations: str = "tanh"
    clip: float = 0.0
    input_forget: bool = False
    linear_before_reset: bool = False
    rounds: bool = False

    @property
    def gates(self) -> int:
        """Gates of a cell; a weight has `hidden` rows for each of them."""
        return len(GATES[self.cell])

    @property
    def sections(self) -> tuple[tuple[int, ...], ...]:
        """The gates that are computed together, in the order of the work of a step.

        The candidate of a GRU reads the state that its reset gate scaled.
        """
        if self.cell == "gru" and not self.linear_before_reset:
            return (0, 1), (2,)
        return (tuple(range(self.gates)),)

    @property
    def has_cell_state(self) -> bool:
        """Whether a cell has a second state."""
        return self.cell == "lstm"

    def operands(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all operands but the recurrent weight, by their names.

        ``xw`` is the product of the inputs with their weights plus all biases, ``bias`` the
        recurrent bias of a GRU's candidate that `linear_before_reset` keeps apart. ``scale`` is
        what a weight of integers is multiplied with, if the layer `rounds`.
        """
        state = (self.directions, self.batch, self.hidden)
        return {
            "xw": (self.steps, self.batch, self.directions * self.gates * self.hidden),
            "bias": (self.directions, self.hidden),
            "peepholes": (self.directions, 3 * self.hidden),
            "scale": (self.directions, self.gates * self.hidden),
            "lengths": (self.batch,),
            "initial_h": state,
            "initial_c": state,
        }

    def results(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the results: all states, and the last ones."""
        state = (self.directions, self.batch, self.hidden)
        last = {"y_h": state, "y_c": state} if self.has_cell_state else {"y_h": state}
        return {"y": (self.steps, *state), **last}
