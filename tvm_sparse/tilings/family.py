"""What every kernel family answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.layer import Layer

SizesT = TypeVar("SizesT", bound=Linear | Conv2d | BlockLinear)
TilingT = TypeVar("TilingT")


class Family(ABC, Generic[SizesT, TilingT]):
    """The kernels that compute one kind of layer in one way, and differ in their tilings.

    The compiler and the tuner ask the same object, so that they cannot disagree about what a
    kernel costs.

    Attributes
    ----------
    name : str
        Name of the family's operator; records call its kernels by it.
    is_sparse : bool
        Whether the kernels skip the zeros of the weight.
    sizes : type
        `Linear`, `Conv2d` or `BlockLinear`: the class of the sizes of the layers that it computes.
    tiling : type
        The dataclass of its tilings.
    """

    name: ClassVar[str]
    is_sparse: ClassVar[bool] = False
    sizes: type[SizesT]
    tiling: type[TilingT]

    def refusal(self, layer: Layer[Any], cpu: CpuProfile) -> str:
        """Return why the family cannot compute a layer; an empty string if it can."""
        if isinstance(layer.problem, self.sizes):
            return self.refusal_of_sizes(layer.problem, cpu)
        return f"{self.name} does not compute layers of {type(layer.problem).__name__} sizes"

    def refusal_of_sizes(self, problem: SizesT, cpu: CpuProfile) -> str:
        """Return why the family cannot compute a layer of its kind; an empty string if it can."""
        del problem, cpu
        return ""

    def cuts_evenly(self, problem: SizesT, tiling: TilingT) -> bool:
        """Return whether a tiling cuts the channels of a layer into equal chunks."""
        del problem, tiling
        return True

    def fits(self, layer: Layer[Any], tiling: TilingT, cpu: CpuProfile) -> bool:
        """Return whether the kernel of a tiling computes a layer."""
        return not self.refusal(layer, cpu) and self.cuts_evenly(layer.problem, tiling)

    @abstractmethod
    def default(self, layer: Layer[SizesT], cpu: CpuProfile) -> TilingT:
        """Return the tiling that the compiler takes if none was measured.

        Raises
        ------
        ValueError
            If the family refuses the layer.
        """

    @abstractmethod
    def tilings(self, layer: Layer[SizesT], cpu: CpuProfile) -> Iterator[TilingT]:
        """Yield the tilings that the tuner may try, in any order; one may come several times.

        Raises
        ------
        ValueError
            If the family refuses the layer.
        """

    @abstractmethod
    def cycles(self, layer: Layer[SizesT], tiling: TilingT, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        No other function states them: the compiler chooses by them, stages report them to the
        planning of regions, and the tuner ranks its candidates by them.
        """

    @abstractmethod
    def register_tile(self, tiling: TilingT) -> tuple[object, ...]:
        """Return the part of a tiling that decides about the inner loop.

        The tuner tries one tiling of every register tile before a second one of the same tile.
        """

    def to_fields(self, tiling: TilingT) -> dict[str, int]:
        """Return a tiling as numbers by name, as records and operators hold it."""
        return {name: int(getattr(tiling, name)) for name in get_type_hints(self.tiling)}

    def from_fields(self, fields: Mapping[str, Any]) -> TilingT | None:
        """Return the tiling with some fields, or None if no tiling can have them."""
        kinds = get_type_hints(self.tiling)
        if set(kinds) != set(fields):
            return None
        try:
            numbers = {name: int(value) for name, value in fields.items()}
            if min(number for name, number in numbers.items() if kinds[name] is int) < 1:
                return None
            return self.tiling(**{name: kinds[name](number) for name, number in numbers.items()})
        except (TypeError, ValueError):
            return None
