"""What a compiled library says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tvm_sparse.dtypes import DType, element_type
from tvm_sparse.runtime.field_types import check_fields
from tvm_sparse.runtime.versions import installed_tvm
from tvm_sparse.runtime.weights import Weights
from tvm_sparse.sizes.decoder import Decoder
from tvm_sparse.specs import Fallback, TensorSpec
from tvm_sparse.version import __version__


@dataclass(frozen=True)
class LibraryInfo:
    """What a library says about itself.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        The inputs and outputs in the order of the model.
    constant_outputs : tuple of str
        The outputs that depend on no input; they are constants of the library.
    cpu : str
        The LLVM name of the processor that it was built for.
    machine : str
        The name of that processor's architecture on Linux, such as ``"aarch64"``.
    instruction_sets : tuple of str
        The optional instruction sets that its code may use.
    tvm_version, version : str
        The versions of TVM and tvm_sparse that built it.
    fallbacks : tuple of Fallback
        The nodes of the model that ONNX Runtime runs.
    threads : int
        The number of threads that its work is cut for; 0 if an older version built it, which did
        not say so.
    precision : DType
        The type that its activations are computed in.
    bounds : mapping of str to int
        The largest sizes of named dimensions that it was compiled for; others have no bound.
    mask : str
        The input that says which tokens are computed, of a library that packs them; else empty.
    multiples : mapping of str to int
        The numbers that must divide named dimensions; others have none.
    has_blocks : bool
        Whether all memory is taken in blocks of few sizes, so that TVM's pool may keep them. The
        libraries of older versions take as many bytes as tensors have.
    decoder : Decoder or None
        What a session must know, if the model is a decoder, whose functions sessions call.
    weights : Weights or None
        The weights beside the code, which functions have as their last parameters. The function of
        the library that describes it does not list them: the seal says where they are.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_outputs: tuple[str, ...]
    cpu: str
    machine: str
    instruction_sets: tuple[str, ...]
    tvm_version: str = field(default_factory=installed_tvm)
    version: str = __version__
    fallbacks: tuple[Fallback, ...] = ()
    threads: int = 0
    precision: DType = DType.FLOAT32
    bounds: Mapping[str, int] = field(default_factory=dict)
    mask: str = ""
    multiples: Mapping[str, int] = field(default_factory=dict)
    has_blocks: bool = False
    decoder: Decoder | None = None
    weights: Weights | None = None

    @property
    def has_sizes(self) -> bool:
        """Whether tensors may have several sizes; those of functions of a decoder have not."""
        is_static = all(spec.is_static for spec in self.inputs) and not self.mask
        return self.decoder is None and not is_static

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        fields = asdict(self)
        usual: dict[str, Any] = {"fallbacks": (), "precision": DType.FLOAT32, "mask": ""}
        usual |= {"bounds": {}, "multiples": {}, "has_blocks": False}
        fields = {name: field for name, field in fields.items() if field != usual.get(name)}
        if self.weights is not None:
            fields["weights"] = self.weights.to_fields()
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LibraryInfo:
        """Return the description written by `to_json`; any error means that it was not."""
        fields = json.loads(text)
        for name in ("inputs", "outputs"):
            fields[name] = tuple(
                TensorSpec(spec["name"], tuple(spec["shape"]), element_type(spec["dtype"]))
                for spec in fields[name]
            )
        for name in ("constant_outputs", "instruction_sets"):
            fields[name] = tuple(fields[name])
        fields["fallbacks"] = tuple(
            Fallback(**found | {"nodes": tuple(found["nodes"])})
            for found in fields.get("fallbacks", ())
        )
        if "decoder" in fields:
            fields["decoder"] = Decoder.from_fields(fields["decoder"])
        if "weights" in fields:
            fields["weights"] = Weights.from_fields(fields["weights"])
        fields["precision"] = DType(fields.get("precision", DType.FLOAT32))
        info = cls(**fields)
        check_fields(info)
        return info
