"""Several compiled functions => one module, which holds each weight and each kernel once."""

from __future__ import annotations

import hashlib
from typing import Any

import tvm
import tvm_ffi
from tvm import relax


class Merged:
    """A module that lowered modules are added to, one after another.

    A constant that an earlier module has, too, is shared with it, so that functions that read the
    same packed weights need the memory of one. So it is with kernels.
    """

    def __init__(self) -> None:
        self._functions: dict[tvm.ir.GlobalVar, Any] = {}
        self._names: set[str] = set()
        self._kernels: dict[int, list[tuple[Any, tvm.ir.GlobalVar]]] = {}
        self._constants: dict[tuple[str, ...], tvm.ir.GenericConst] = {}
        self._attributes: dict[str, Any] = {}

    def add(self, name: str, mod: tvm.IRModule) -> None:
        """Add a module, whose function ``main`` is called `name` from now on.

        Relax functions beside it are taken from the first module that has them.
        """
        variables: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar] = {}
        for gvar, func in mod.functions_items():
            if isinstance(func, tvm.tirx.PrimFunc):
                variables[gvar] = self._kernel(gvar.name_hint, func)
        for gvar, func in mod.functions_items():
            if not isinstance(func, relax.Function):
                continue
            own = name if gvar.name_hint == "main" else gvar.name_hint
            if own in self._names:
                continue
            changed = tvm_ffi.structural_map(
                func,
                [
                    (tvm.ir.GlobalVar, lambda gvar: variables.get(gvar, gvar)),
                    (tvm.ir.GenericConst, self._constant),
                ],
            )
            self._names.add(own)
            self._functions[tvm.ir.GlobalVar(own)] = changed.with_attr("global_symbol", own)
        self._attributes |= dict(mod.attrs or {})

    def module(self) -> tvm.IRModule:
        """Return the module."""
        return tvm.IRModule(self._functions, attrs=self._attributes)

    def _kernel(self, name: str, func: Any) -> tvm.ir.GlobalVar:
        plain = func.without_attr("global_symbol")
        alike = self._kernels.setdefault(tvm_ffi.structural_hash(plain), [])
        for other, gvar in alike:
            if tvm_ffi.structural_equal(plain, other):
                return gvar
        own = next(
            text
            for i in range(len(self._names) + 1)
            if (text := f"{name}_{i}" if i else name) not in self._names
        )
        gvar = tvm.ir.GlobalVar(own)
        self._names.add(own)
        self._functions[gvar] = plain.with_attr("global_symbol", own)
        alike.append((plain, gvar))
        return gvar

    def _constant(self, constant: tvm.ir.GenericConst) -> tvm.ir.GenericConst:
        value = constant.value
        if not isinstance(value, tvm.runtime.Tensor):
            return constant
        content = hashlib.blake2b(value.numpy().tobytes()).hexdigest()
        key = str(value.dtype), str(tuple(value.shape)), content
        return self._constants.setdefault(key, constant)
