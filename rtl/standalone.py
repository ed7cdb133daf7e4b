"""The accelerator as a module for other people's designs: standard AXI port names, a clock and a reset as pins."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi_flat import FLAT_AXI4, connect_manager, connect_subordinate, flat_axilite
from .config import AcceleratorConfig
from .isa import CSR_ADDRESS_BITS
from .top import Accelerator

#: What Vivado's block design wants to know of the pins beyond their names.
_PIN_ATTRIBUTES = {
    "aclk": {
        "X_INTERFACE_INFO": "xilinx.com:signal:clock:1.0 aclk CLK",
        "X_INTERFACE_PARAMETER": "ASSOCIATED_BUSIF {managers}:s_axi, ASSOCIATED_RESET aresetn",
    },
    "aresetn": {
        "X_INTERFACE_INFO": "xilinx.com:signal:reset:1.0 aresetn RST",
        "X_INTERFACE_PARAMETER": "POLARITY ACTIVE_LOW",
    },
    "irq": {
        "X_INTERFACE_INFO": "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT",
        "X_INTERFACE_PARAMETER": "SENSITIVITY LEVEL_HIGH",
    },
}


class Standalone(wiring.Component):
    """The accelerator behind flat ports.

    Members
    -------
    aclk, aresetn : In(1)
        The clock, and the reset: low to reset, synchronous to the clock.
    m_axi_* : AXI4 manager, 64-bit data. Two of them are m_axi0_* and m_axi1_*.
    s_axi_* : AXI4-Lite subordinate, 32-bit data: the registers.
    irq : Out(1)
        High until the pending bits are cleared.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        count = config.managers
        self._managers = [f"m_axi{number}" for number in range(count)] if count > 1 else ["m_axi"]
        self._subordinate = flat_axilite(CSR_ADDRESS_BITS).flip()
        super().__init__(
            {
                "aclk": In(1),
                "aresetn": In(1),
                **{f"{manager}_{name}": flat for manager in self._managers for name, flat in FLAT_AXI4.members.items()},
                **{f"s_axi_{name}": member for name, member in self._subordinate.members.items()},
                "irq": Out(1),
            }
        )
        managers = ":".join(self._managers)
        for pin, attributes in _PIN_ATTRIBUTES.items():
            texts = {name: text.format(managers=managers) for name, text in attributes.items()}
            getattr(self, pin).attrs.update(texts)

    def _bus(self, prefix: str, signature: wiring.Signature) -> SimpleNamespace:
        return SimpleNamespace(**{name: getattr(self, f"{prefix}_{name}") for name in signature.members})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.accelerator = accelerator = Accelerator(self._config)
        m.d.comb += [
            ClockSignal().eq(self.aclk),
            ResetSignal().eq(~self.aresetn),
            self.irq.eq(accelerator.interrupt),
        ]
        for name, manager in zip(self._managers, accelerator.axi, strict=True):
            channels = {channel: getattr(manager, channel) for channel in ("ar", "r", "aw", "w", "b")}
            connect_manager(m, channels, self._bus(name, FLAT_AXI4))
        connect_subordinate(m, self._bus("s_axi", self._subordinate), accelerator.csr)
        return m
