"""Boards with a Zynq-7000, whose ARM processing system (PS7) owns the DDR memory.

The accelerator is a peripheral of the PS. M_AXI_GP0 reaches its registers. Its managers go through an aperture
(`rtl.aperture`), which keeps them away from Linux, to S_AXI_HP0 and S_AXI_HP2, which share no port of the DDR
controller; dependent work is ordered by the write responses. FCLK0 clocks it, IRQF2P[0] takes its interrupt. The boot
loader configures the PS, including HP ports of 64 bits, so the PS pins need no constraint here.

Clocking and ports: AMD UG585.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import Cat, ClockDomain, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Out
from amaranth.vendor import XilinxPlatform

from boards.board import Board, Result
from boards.overlay import overlay
from rtl.aperture import Aperture, ApertureRegisters
from rtl.axi import CACHE, AXI4ToAXI3
from rtl.axi_bridge import AXI3ToLite
from rtl.config import AcceleratorConfig
from rtl.isa import CSR_ADDRESS_BITS
from rtl.top import Accelerator

#: Physical address of the CSRs: the start of the GP0 window.
CSR_BASE = 0x4000_0000

#: Numbers of the HP ports that the managers go to.
HP_PORTS = (0, 2)

#: What each device has, as `rtl.utilisation.RESOURCES` names it: AMD DS190.
CAPACITY = {
    "xc7z010": {"lut": 17_600, "lutram": 6_000, "ff": 35_200, "bram36": 60, "dsp": 80},
    "xc7z020": {"lut": 53_200, "lutram": 17_400, "ff": 106_400, "bram36": 140, "dsp": 220},
    "xc7z045": {"lut": 218_600, "lutram": 70_400, "ff": 437_200, "bram36": 545, "dsp": 900},
}

HEARTBEAT_BITS = 27

_INCR, _EIGHT_BYTES = 0b01, 0b11


@dataclass(frozen=True, kw_only=True)
class Zynq7000(Board):
    """A board with a Zynq-7000, built with Vivado.

    Attributes
    ----------
    platform : what is on the board, as Amaranth knows it: part, LEDs. The PS has its own pins.
    ddr_mib : memory of the PS.
    led_alive, led_interrupt : numbers of two of its LEDs (resource `led`): one blinks while the clock runs, the other
        shows that the interrupt is raised.
    """

    platform: type[XilinxPlatform]
    ddr_mib: int
    led_alive: int = 0
    led_interrupt: int = 1

    @property
    def device(self) -> str:
        return self.platform.device + self.platform.package + "-" + self.platform.speed

    @property
    def capacity(self) -> Mapping[str, int]:
        return CAPACITY[self.platform.device]

    @property
    def tool(self) -> str:
        return "vivado"

    @property
    def pins(self) -> Mapping[str, tuple[str, Mapping[str, str]]]:
        """(package pin, attributes) of each output of the design."""
        platform = self.platform()
        leds = {name: platform.lookup("led", getattr(self, name)) for name in ("led_alive", "led_interrupt")}
        # Of an LED that is lit by a low level the design would have to know; none of these boards has one.
        return {name: (led.ios[0].names[0], led.attrs) for name, led in leds.items()}

    def top(self, config: AcceleratorConfig) -> wiring.Component:
        return Top(config)

    def files(self, name: str, clock_mhz: float) -> dict[str, str]:
        # An eighth of the memory is what a kernel that keeps a quarter in one piece can well give away.
        tree = overlay(name, registers=CSR_BASE, clock_mhz=clock_mhz, buffer_mib=self.ddr_mib // 8)
        constraints, script = self._constraints(clock_mhz), self._script(name)
        return {f"{name}.xdc": constraints, f"{name}.tcl": script, f"{name}.dts": tree}

    def command(self, name: str) -> list[str]:
        return [self.tool, "-mode", "batch", "-source", f"{name}.tcl"]

    def result(self, directory: Path, name: str, clock_mhz: float) -> Result:
        fmax = None
        report = directory / f"{name}_timing.rpt"
        if report.exists():
            # The summary's first figure under the headings is the worst negative slack in ns.
            found = re.search(r"WNS\(ns\).*?\n[\s-]*\n\s*(-?\d+\.\d+)", report.read_text(), re.DOTALL)
            if found:
                fmax = 1000 / (1000 / clock_mhz - float(found[1]))
        bitstream = directory / f"{name}.bit"
        return Result(fmax_mhz=fmax, bitstream=bitstream if bitstream.exists() else None)

    def _constraints(self, clock_mhz: float) -> str:
        """Text of the XDC: clock and pins."""
        lines = [
            f"# {self.device}: the clock of the fabric is FCLK0 of the PS, set by the boot loader.",
            f"create_clock -name fclk0 -period {1000 / clock_mhz:.3f} [get_pins {{ps7/FCLKCLK[0]}}]",
        ]
        for name, (pin, attributes) in self.pins.items():
            properties = {"PACKAGE_PIN": pin, **attributes}
            words = " ".join(f"{key} {value}" for key, value in properties.items())
            lines.append(f"set_property -dict {{{words}}} [get_ports {name}]")
        return "\n".join(lines) + "\n"

    def _script(self, name: str) -> str:
        """Tcl that takes Vivado from the EDIF `name`.edf to `name`.bit, in the directory of the build."""
        return f"""\
read_edif {name}.edf
read_xdc {name}.xdc
link_design -part {self.device} -top {name}
opt_design
place_design
phys_opt_design
route_design
report_utilization -file {name}_utilization.rpt
report_timing_summary -file {name}_timing.rpt
report_drc -file {name}_drc.rpt
write_checkpoint -force {name}.dcp
write_bitstream -force {name}.bit
"""


class Top(wiring.Component):
    """The whole design for the board: PS7, buses, accelerator, LEDs."""

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__({"led_alive": Out(1), "led_interrupt": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(self._config)
        m.submodules.bridge = bridge = AXI3ToLite(CSR_ADDRESS_BITS + 1)
        m.submodules.registers = registers = ApertureRegisters(CSR_ADDRESS_BITS)
        wiring.connect(m, bridge.o, registers.i)
        wiring.connect(m, registers.o, accelerator.csr)
        ports = []
        for number, manager in enumerate(accelerator.axi):
            m.submodules[f"aperture{number}"] = aperture = Aperture(outstanding=self._config.outstanding)
            m.submodules[f"axi3_{number}"] = axi3 = AXI4ToAXI3(burst_beats=self._config.burst_beats)
            m.d.comb += [aperture.base.eq(registers.base), aperture.size.eq(registers.size)]
            wiring.connect(m, manager, aperture.i)
            wiring.connect(m, aperture.o, axi3.i)
            ports.append(axi3.o)

        clocks = Signal(4)
        resets_n = Signal(4)
        m.domains.sync = sync = ClockDomain()
        m.submodules.bufg = Instance("BUFG", i_I=clocks[0], o_O=sync.clk)
        m.submodules.reset = ResetSynchronizer(~resets_n[0], domain="sync")

        pins = {}
        for number, bus in zip(HP_PORTS, ports, strict=False):
            pins |= self._hp(number, sync.clk, bus)
        m.submodules.ps7 = Instance(
            "PS7",
            o_FCLKCLK=clocks,
            o_FCLKRESETN=resets_n,
            i_FCLKCLKTRIGN=Const(0, 4),
            i_FPGAIDLEN=Const(1, 1),
            i_DDRARB=Const(0, 4),
            i_IRQF2P=Cat(accelerator.interrupt, Const(0, 19)),
            **self._gp0(sync.clk, bridge.i),
            **pins,
        )

        heartbeat = Signal(HEARTBEAT_BITS)
        m.d.sync += heartbeat.eq(heartbeat + 1)
        for name, value in (("led_alive", heartbeat[-1]), ("led_interrupt", accelerator.interrupt)):
            m.submodules[f"{name}_buffer"] = Instance("OBUF", i_I=value, o_O=getattr(self, name))
        return m

    @staticmethod
    def _gp0(clk, bus) -> dict:
        """Connections of M_AXI_GP0, where the PS is the manager."""
        return {
            "i_MAXIGP0ACLK": clk,
            **{
                f"o_MAXIGP0{channel.upper()}{pin}": getattr(getattr(bus, channel).payload, field)
                for channel in ("ar", "aw")
                for pin, field in (("ID", "id"), ("ADDR", "addr"), ("LEN", "len"), ("BURST", "burst"))
            },
            **{f"o_MAXIGP0{channel.upper()}VALID": getattr(bus, channel).valid for channel in ("ar", "aw", "w")},
            **{f"i_MAXIGP0{channel.upper()}READY": getattr(bus, channel).ready for channel in ("ar", "aw", "w")},
            "o_MAXIGP0WDATA": bus.w.payload.data,
            "o_MAXIGP0WSTRB": bus.w.payload.strb,
            "o_MAXIGP0WLAST": bus.w.payload.last,
            "i_MAXIGP0RID": bus.r.payload.id,
            "i_MAXIGP0RDATA": bus.r.payload.data,
            "i_MAXIGP0RRESP": bus.r.payload.resp,
            "i_MAXIGP0RLAST": bus.r.payload.last,
            "i_MAXIGP0BID": bus.b.payload.id,
            "i_MAXIGP0BRESP": bus.b.payload.resp,
            **{f"i_MAXIGP0{channel.upper()}VALID": getattr(bus, channel).valid for channel in ("r", "b")},
            **{f"o_MAXIGP0{channel.upper()}READY": getattr(bus, channel).ready for channel in ("r", "b")},
        }

    @staticmethod
    def _hp(index: int, clk, bus) -> dict:
        """Connections of S_AXI_HP`index`."""
        port = f"SAXIHP{index}"
        pins = {
            f"i_{port}ACLK": clk,
            f"i_{port}RDISSUECAP1EN": Const(0, 1),
            f"i_{port}WRISSUECAP1EN": Const(0, 1),
            f"i_{port}WID": Const(0, 6),
        }
        for channel in ("ar", "aw"):
            name, payload = f"{port}{channel.upper()}", getattr(bus, channel).payload
            pins |= {
                f"i_{name}ID": Const(0, 6),
                f"i_{name}ADDR": payload.addr,
                f"i_{name}LEN": payload.len,
                f"i_{name}SIZE": Const(_EIGHT_BYTES, 2),
                f"i_{name}BURST": Const(_INCR, 2),
                f"i_{name}LOCK": Const(0, 2),
                f"i_{name}CACHE": Const(CACHE, 4),
                f"i_{name}PROT": Const(0, 3),
                f"i_{name}QOS": Const(0, 4),
            }
        for channel in ("ar", "aw", "w"):
            stream = getattr(bus, channel)
            pins |= {f"i_{port}{channel.upper()}VALID": stream.valid, f"o_{port}{channel.upper()}READY": stream.ready}
        for channel in ("r", "b"):
            stream = getattr(bus, channel)
            pins |= {f"o_{port}{channel.upper()}VALID": stream.valid, f"i_{port}{channel.upper()}READY": stream.ready}
        return pins | {
            f"i_{port}WDATA": bus.w.payload.data,
            f"i_{port}WSTRB": bus.w.payload.strb,
            f"i_{port}WLAST": bus.w.payload.last,
            f"o_{port}RDATA": bus.r.payload.data,
            f"o_{port}RRESP": bus.r.payload.resp,
            f"o_{port}RLAST": bus.r.payload.last,
            f"o_{port}BRESP": bus.b.payload.resp,
        }
