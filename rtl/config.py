"""What can be chosen when the accelerator is built, checked once and read by everybody.

The same frozen object parametrises the RTL, the golden model and the host's plans; it is dumped as JSON beside
every build and can be read back from the CSRs (`rtl.isa.CSR`), so a host never has to guess what it drives.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace

#: Channels in one bit-plane word, the unit in which streaming operands lie in DDR and in the stream buffer.
WORD_CHANNELS = 16
#: Taps of the im2col window; in flat mode the same nine words hold nine channel blocks of one vector.
TAPS = 9
#: Tap that channel block 0..8 of a flat k block meets.
FLAT_TAPS = tuple(3 * (block % 3) + block // 3 for block in range(TAPS))
#: Lanes of a processing element: every tap sees a whole word.
LANES = TAPS * WORD_CHANNELS
#: Bits of one digit of the stationary operand.
DIGIT_BITS = 4
#: Lanes that share one table of 2**GROUP_LANES subset sums.
GROUP_LANES = 4
#: Subset-sum tables of one processing element.
GROUPS = LANES // GROUP_LANES
#: Width of a table entry: four unsigned digits sum to 0..60; four signed ones to -32..28, stored plus 32.
ENTRY_BITS = 6
#: Bits of one AXI beat: four words of the streaming operand, or one tap of one stationary row.
BEAT_BITS = 64
BEAT_BYTES = BEAT_BITS // 8
#: Words in a beat: neighbouring columns of one image row.
BEAT_WORDS = BEAT_BITS // WORD_CHANNELS
#: Where the memory on the chip begins, if there is one: all addresses from here on are its own.
CHIP_BASE = 0xC000_0000
#: Its size is a multiple of this, in KiB.
CHIP_STEP_KIB = 16
#: Width of the exact accumulators (one DSP48E1).
ACC_BITS = 48
#: Widest operand.
MAX_BITS = 16
#: Bytes of a stationary tile of 16 rows, the most that a cluster has.
WEIGHT_TILE_BYTES = 16 * TAPS * BEAT_BYTES
#: Bytes of a digit of 16 rows at 16 positions, or of a tap's 16 channels.
WORD_BYTES = WORD_CHANNELS * BEAT_BYTES
#: Slots of a ping-pong buffer.
SLOTS = 2
#: Stationary tiles that fit the weight buffer: two wait while a third is read.
WEIGHT_SLOTS = 3

PE_KINDS = ("table", "popcount")


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Build-time parameters of the accelerator.

    Attributes
    ----------
    clusters : int
        Clusters that run in lockstep, 1 to 20. Each works on its own samples, chunks or blocks of output rows.
    rows : int
        Output rows (output channels) of a cluster: 4, 8 or 16.
    stream_depth : int
        Beats in each of the three row banks of a cluster's stream buffer; both ping-pong slots together.
    result_depth : int
        Positions in a cluster's result buffer (`rows` 48-bit sums each); both ping-pong slots together.
    burst_beats : int
        Longest AXI burst. Bursts are aligned to their own length, so none crosses 4 KiB; 16 suits AXI3.
    outstanding : int
        Bursts in flight in each direction of a manager.
    managers : int
        AXI managers, 1 or 2. With two, the streaming operand is read over the second and everything else over the
        first, and the results of even and of odd clusters leave side by side.
    queue_depth : int
        Tiles that may wait in front of each of LOAD, EXEC and STORE.
    vector : bool
        Whether it has what a whole training step needs beside products: the vector unit, weight gradients, and
        stationary tiles in other orders. All of it needs 16 rows.
    chip_kib : int
        Memory on the chip at `CHIP_BASE`, in KiB: 0 for none, or a multiple of 16 up to 2032.
    pe : str
        `"table"`: subset sums in LUTRAM. `"popcount"`: AND and popcount, the independent cross-check.
    vendor : str
        `"generic"`: portable twins of all cells. `"xc7"`: ternary adders in LUT6_2 and CARRY4, DSP48E1 accumulators.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the field, the value and the range.
    """

    clusters: int = 1
    rows: int = 16
    stream_depth: int = 1024
    result_depth: int = 512
    burst_beats: int = 16
    outstanding: int = 8
    managers: int = 1
    queue_depth: int = 4
    vector: bool = False
    chip_kib: int = 0
    pe: str = "table"
    vendor: str = "generic"

    def __post_init__(self):
        def check(ok: bool, name: str, want: str):
            if not ok:
                raise ValueError(f"AcceleratorConfig.{name} is {getattr(self, name)!r}, must be {want}")

        for field in fields(self):
            if field.type == "int":
                value = getattr(self, field.name)
                check(isinstance(value, int) and not isinstance(value, bool), field.name, "an int")
        check(1 <= self.clusters <= 20, "clusters", "1 to 20")
        check(self.rows in (4, 8, 16), "rows", "4, 8 or 16")
        check(self.managers in (1, 2), "managers", "1 or 2")
        for name, low, high in (
            ("stream_depth", 64, 16384),
            ("result_depth", 16, 8192),
            ("burst_beats", 2, 256),
            ("outstanding", 1, 16),
            ("queue_depth", 2, 16),
        ):
            value = getattr(self, name)
            check(value & (value - 1) == 0 and low <= value <= high, name, f"a power of two, {low} to {high}")
        check(
            isinstance(self.vector, bool) and (self.rows == 16 or not self.vector), "vector", "true only with 16 rows"
        )
        check(
            self.chip_kib % CHIP_STEP_KIB == 0 and 0 <= self.chip_kib < 128 * CHIP_STEP_KIB,
            "chip_kib",
            f"0 or a multiple of {CHIP_STEP_KIB}, up to {127 * CHIP_STEP_KIB}",
        )
        check(self.pe in PE_KINDS, "pe", "one of " + ", ".join(PE_KINDS))
        check(self.vendor in ("generic", "xc7"), "vendor", "generic or xc7")

    # Derived values -------------------------------------------------------------------------------------------------

    @property
    def bit_macs_per_cycle(self) -> int:
        """One-bit multiply-accumulates a cycle: every lane of every row takes a 4-bit digit against one bit."""
        return self.clusters * self.rows * LANES * DIGIT_BITS

    @property
    def stream_slot(self) -> int:
        """Beats a row bank can hold in one ping-pong slot."""
        return self.stream_depth // SLOTS

    @property
    def result_slot(self) -> int:
        """Positions one ping-pong slot of the result buffer can hold."""
        return self.result_depth // SLOTS

    @property
    def lanes(self) -> int:
        """Ways out of the array, each with the sums of every `lanes`-th cluster and a manager to itself."""
        return min(self.managers, self.clusters)

    @property
    def chip_bytes(self) -> int:
        """Size of the memory on the chip."""
        return self.chip_kib * 1024

    @property
    def weight_tile_beats(self) -> int:
        """Beats of one stationary tile: rows x taps."""
        return self.rows * TAPS

    @property
    def table_load_cycles(self) -> int:
        """Cycles to write one context: every row takes its 16 entries in turn."""
        return self.rows * 2**GROUP_LANES

    # Presets and JSON -----------------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **changes) -> AcceleratorConfig:
        """The named preset, with `changes` to single fields.

        `tiny` compiles fast and cuts everything into many tiles; `sim` is one full cluster with the buffers of the
        real one; `vector` is that with a vector unit; `zc706` is the 20-cluster array of the XC7Z045 with one too;
        `z020` and `z010` are what smaller devices of that family hold.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        return replace(PRESETS[name], **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> AcceleratorConfig:
        data = json.loads(text)
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown configuration fields: {', '.join(unknown)}")
        return cls(**data)


PRESETS = {
    "tiny": AcceleratorConfig(clusters=2, rows=4, stream_depth=256, result_depth=64),
    "sim": AcceleratorConfig(clusters=1),
    "vector": AcceleratorConfig(clusters=1, vector=True),
    "z010": AcceleratorConfig(clusters=1, rows=8, vendor="xc7"),  # 16 rows would take all LUTs but a few
    "z020": AcceleratorConfig(clusters=5, managers=2, vendor="xc7"),
    "zc706": AcceleratorConfig(clusters=20, managers=2, vector=True, vendor="xc7"),
}
