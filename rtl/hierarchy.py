"""Units that are elaborated once and instantiated many times.

Elaborating equal submodules one by one is what makes Python HDL builds slow: the array has 320 equal processing
elements. `Macro` puts an `Instance` where the unit would stand; `rtlil` converts every distinct unit once and returns
one text with all modules, which synthesis and simulation both read. Elsewhere a macro is the unit itself.
"""

from __future__ import annotations

from contextvars import ContextVar

from amaranth.back import rtlil as rtlil_backend
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

_pending: ContextVar[dict] = ContextVar("pending macros")


class Macro(wiring.Component):
    """An instance of the separately elaborated unit `unit(config)`, with the same ports.

    Parameters
    ----------
    unit : type[wiring.Component]
        Class with a static method `ports(config)` that gives its signature's members and `macro` (the module's name).
        It must use the `sync` domain and nothing else.
    config
        Passed to the unit; one design holds one configuration of a unit.
    """

    def __init__(self, unit: type, config):
        self._unit, self._config = unit, config
        super().__init__(unit.ports(config))

    def elaborate(self, platform):
        pending = _pending.get(None)
        if pending is None:  # nobody collects macros, Amaranth's own simulator for one: the unit itself stands here
            m = Module()
            m.submodules.unit = unit = self._unit(self._config)
            wiring.connect(m, wiring.flipped(self), unit)
            return m
        known = pending.setdefault(self._unit.macro, (self._unit, self._config))
        if known != (self._unit, self._config):
            raise ValueError(f"macro {self._unit.macro!r} is used with two configurations")
        connections = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in self.signature.flatten(self):
            name = "__".join(str(part) for part in path)
            connections[("i_" if member.flow == In else "o_") + name] = value
        m = Module()
        m.submodules.macro = Instance(self._unit.macro, **connections)
        return m


def rtlil(top, name: str, *, source_lines: bool = False) -> str:
    """RTLIL text of `top` as module `name`, followed by each macro module it uses, once.

    `source_lines`: what stems from which line of Python is noted, in attributes `src`.
    """
    pending: dict = {}
    token = _pending.set(pending)
    try:
        texts = [rtlil_backend.convert(top, name=name, emit_src=source_lines)]
        done: set[str] = set()
        while todo := [key for key in pending if key not in done]:
            for key in todo:
                unit, config = pending[key]
                text = rtlil_backend.convert(unit(config), name=key, emit_src=source_lines)
                texts.append(text.replace("attribute \\top 1\n", ""))
                done.add(key)
        return "\n".join(texts)
    finally:
        _pending.reset(token)
