"""DropPadding: main(ids, mask) => main(ids, mask, source, first, count, place) on packed tokens

Tokens that the mask leaves out are computed no more. `packer` says which operators can work on
packed tokens; `MapPadding` computes the new inputs of the mask. The module's attribute `PADDING`
tells what was decided, and why.

Runs after attention is one operator, and before weights are packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.attention_scores import MASKED
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic, planned_as
from tvm_sparse.passes.padding.masks import Masks
from tvm_sparse.passes.padding.packer import ATTENTIONS, Packed, Packer, Refusal, hides
from tvm_sparse.passes.padding.tokens import ROWS, PaddingMap, Tokens
from tvm_sparse.specs import PaddingOption

PADDING = "tvm_sparse.padding"
"""The attribute of a module with a map of what was decided: `mask`, the name of the input, if its
padding is dropped, with `lanes` and `keeps_first`, as `make_map` takes them; the words `text` for
people; and `refusal`, why padding cannot be dropped that shall be."""

PACKED_LANES = 16
"""Tokens of a panel of packed sentences. The last panel of a sentence is half empty on average, so
that wider panels compute more lanes for nothing than they save loads: of sentences with 54 tokens
on average, panels of 32 lanes took 8 to 29 % longer than those of 16, with AVX2 and AVX-512."""

OLDER_MASK = -1e4
"""What older exporters add to the scores of masked tokens. Their weight is 0 in float32 unless a
score is 9,896 above that of a real token, which no trained network comes near to; but the graph is
no proof of it."""

OUTPUTS = "tvm_sparse.outputs"
"""The attribute of a module with the names of the outputs of ``main``, for messages."""

MAIN = "main"


@tvm.transform.module_pass(opt_level=0, name="DropPadding")
class DropPadding:
    """Pack the tokens of ``main`` if the model has a mask of them.

    Parameters
    ----------
    padding : str
        ``"keep"`` changes nothing. ``"drop"`` packs wherever that is right. ``"auto"`` packs
        models of open sizes none of whose outputs has an axis of tokens.
    lanes : int
        Tokens of a panel.
    """

    def __init__(self, padding: PaddingOption, lanes: int) -> None:
        self.padding, self.lanes = padding, lanes

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with a ``main`` of packed tokens, if it can be, and the attribute."""
        main = _main_of(mod)
        if self.padding == "keep" or main is None:
            return mod
        if self.padding == "auto" and not any(map(_is_open, main.params)):
            return mod
        try:
            hidden = OLDER_MASK if self._must_drop else MASKED
            mask = _mask_of(main, hidden)
            if self.padding == "auto" and not _is_open(mask):
                return mod
            names = [str(name) for name in (mod.attrs or {}).get(OUTPUTS, ())]
            rewriting = _Rewriting(main, mask, self.lanes, names, hidden)
            packed = rewriting.function(keeps_outputs=self.padding == "drop")
        except _NoMask as why:
            refusal = f"padding='drop' is for models with a mask of tokens: {why}"
            return mod.with_attr(PADDING, {"refusal": refusal}) if self._must_drop else mod
        except Refusal as why:
            if self._must_drop:
                return mod.with_attr(PADDING, {"refusal": f"padding cannot be dropped: {why}"})
            return mod.with_attr(PADDING, {"text": f"padding kept: {why}"})
        functions = {
            gvar: packed if gvar.name_hint == MAIN else func for gvar, func in mod.functions_items()
        }
        decided = {
            "mask": str(mask.name),
            "lanes": self.lanes,
            "keeps_first": bool(rewriting.packer.of_first),
            "text": f"padding dropped ({mask.name})",
        }
        return tvm.IRModule(functions, attrs=mod.attrs).with_attr(PADDING, decided)

    @property
    def _must_drop(self) -> bool:
        return self.padding == "drop"


class _NoMask(Exception):
    """Why nothing says which tokens are padding."""


def decision(mod: tvm.IRModule) -> Mapping[str, Any]:
    """Return what was decided about padding; nothing where nobody asked, or there is none."""
    found = mod.attrs.get(PADDING) if mod.attrs else None
    return dict(found.items()) if found else {}


def with_rows(mod: tvm.IRModule, hints: Mapping[str, int]) -> dict[str, int]:
    """Return hints with the rows into which sentences of these sizes are packed, if they are."""
    if not decision(mod).get("mask"):
        return dict(hints)
    with planned_as(hints):
        *_, source, _, _, place = mod[MAIN].params
        batch, tokens = map(int, extents_of(place) or ())
        lanes = int(source.ty.shape.values[1])
        return {**hints, ROWS: batch * -(-tokens // lanes)}


def _main_of(mod: tvm.IRModule) -> relax.Function | None:
    found = [func for gvar, func in mod.functions_items() if gvar.name_hint == MAIN]
    return found[0] if found and isinstance(found[0], relax.Function) else None


def _is_open(value: relax.Expr) -> bool:
    return is_symbolic(extents_of(value) or ())


def _bindings(main: relax.Function) -> list[relax.Binding]:
    return [binding for block in main.body.blocks for binding in block.bindings]


def _mask_of(main: relax.Function, hidden: float) -> relax.Var:
    """Return the input that all attentions have as their mask, with a bias of at most `hidden`."""
    bound = {binding.var: binding.value for binding in _bindings(main)}
    candidates = [p for p in main.params if len(extents_of(p) or ()) == 2]
    masks = Masks(candidates, lambda value: bound.get(value, value))
    attentions = [(var, call) for var, call in bound.items() if is_call_to(call, *ATTENTIONS)]
    used: list[relax.Var] = []
    for var, call in attentions:
        read = masks.read(call.args[3]) if len(call.args) > 3 else None
        view = None if read is None else read.view
        if view is None or not hides(masks, call.args[3], view.base, hidden):
            if not candidates:
                raise _NoMask("it has no input of two axes, as a mask of tokens has")
            layer = f"{str(var.name)!r} (attention)"
            if read and view is not None and hides(masks, call.args[3], view.base, OLDER_MASK):
                raise Refusal(
                    f"{layer} only adds {float(read.at_masked):g} to the scores of padded tokens, "
                    "which is no proof that their weight is 0; padding='drop' takes it for one"
                )
            raise Refusal(
                f"{layer} has no mask that gives each padded token the weight 0, and nothing else"
            )
        used += [] if any(view.base.same_as(known) for known in used) else [view.base]
    if len(used) != 1:
        raise _NoMask("several inputs are masks" if used else "it has no attention")
    return used[0]


class _Rewriting:
    """Makes the function of packed tokens."""

    def __init__(
        self,
        main: relax.Function,
        mask: relax.Var,
        lanes: int,
        outputs: Sequence[str],
        hidden: float,
    ) -> None:
        self.main, self.mask, self.outputs = main, mask, outputs
        self.builder = relax.BlockBuilder()
        self.bindings: list[relax.VarBinding] = []
        self.known: dict[relax.Var, Packed] = {}
        bound = {binding.var: binding.value for binding in _bindings(main)}
        self.map = PaddingMap.of(mask, lanes)
        masks = Masks([mask], lambda value: bound.get(value, value))
        self.packer = Packer(Tokens(self.map, self.emit), masks, self.known, hidden)

    def emit(self, value: relax.Expr, name: str = "lv") -> relax.Expr:
        """Bind a call to a new variable, and return that."""
        if not isinstance(value, relax.Call):
            return value
        call = self.builder.normalize(value)
        var = relax.DataflowVar(name, call.ty)
        self.bindings.append(relax.VarBinding(var, call))
        return var

    def function(self, keeps_outputs: bool) -> relax.Function:
        """Return ``main`` on packed tokens.

        Parameters
        ----------
        keeps_outputs : bool
            Whether outputs may have an axis of tokens; padded ones become 0.

        Raises
        ------
        Refusal
            If a result would depend on tokens that the mask leaves out.
        """
        main = self.main
        blocks = main.body.blocks
        if len(blocks) != 1 or not isinstance(blocks[0], relax.DataflowBlock):
            raise Refusal("a part of the graph depends on values")
        of_tokens = {param for param in main.params if not param.same_as(self.mask)}
        for binding in blocks[0].bindings:
            read = set(relax.analysis.free_vars(binding.value))
            if read & of_tokens:
                of_tokens.add(binding.var)
            self._binding(binding, read, bool(read & of_tokens), keeps_outputs)
        params = [*main.params, *self.map.inputs]
        body = relax.SeqExpr([relax.DataflowBlock(self.bindings)], main.body.body)
        made = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
        return relax.analysis.remove_all_unused(made)

    def _binding(
        self, binding: relax.Binding, read: set[relax.Var], of_tokens: bool, keeps_outputs: bool
    ) -> None:
        value, var, name = binding.value, binding.var, str(binding.var.name)
        is_output = not isinstance(var, relax.DataflowVar)
        packs = bool(read & self.known.keys())
        if not packs and isinstance(value, relax.Call) and of_tokens and not is_output:
            self._begin(value, binding, name)
            return
        if not packs:
            self.bindings.append(binding)
            return
        if is_output and not isinstance(value, relax.Call):
            fields = value.fields if isinstance(value, relax.Tuple) else [value]
            made = [self._unpacked(field, keeps_outputs, i) for i, field in enumerate(fields)]
            whole = relax.Tuple(made) if isinstance(value, relax.Tuple) else made[0]
            self.bindings.append(relax.VarBinding(var, whole))
            return
        if isinstance(value, relax.Var):
            self.known[var] = self.known[value]
            return
        if not isinstance(value, relax.Call):
            raise Refusal(f"{name!r} reads tokens that the mask leaves out")
        result = self.packer.apply(value, name)
        if not isinstance(result, Packed):
            self.bindings.append(relax.VarBinding(var, self.builder.normalize(result)))
            return
        self.known[var] = Packed(self.emit(result.value, name), result.shape, result.is_zero)
        if is_output:
            self.bindings.append(relax.VarBinding(var, self._unpacked(var, keeps_outputs)))

    def _begin(self, call: relax.Call, binding: relax.Binding, name: str) -> None:
        """Pack the result of a call of padded tensors, if it has features of tokens."""
        if self.packer.begins(call):
            count = len(self.bindings)
            try:
                result = self.packer.apply(call, name)
            except Refusal:  # it is computed of all tokens, as without packing
                del self.bindings[count:]
            else:
                if isinstance(result, Packed):
                    value = self.emit(result.value, name)
                    self.known[binding.var] = Packed(value, result.shape, result.is_zero)
                    return
        self.bindings.append(binding)

    def _unpacked(self, value: relax.Expr, keeps_outputs: bool, number: int = 0) -> relax.Expr:
        packed = self.known.get(value) if isinstance(value, relax.Var) else None
        if packed is None:
            return value
        if not keeps_outputs:
            name = self.outputs[number] if number < len(self.outputs) else str(value.name)
            raise Refusal(
                f"output {name!r} has an axis of tokens; padding='drop' makes the padded ones 0"
            )
        return self.packer.tokens.unpack(packed.value, packed.shape)
