"""Block RAM that the engines of all managers share: neighbouring beats lie in different banks, which take turns.

A bank reads a beat and writes a beat a cycle, so two managers read and write two each as long as they do not meet in
a bank. Where they do, one of them waits for a cycle, and runs of neighbouring beats do not meet again after that.
"""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .axi import DECERR, OKAY, ReadData
from .config import BEAT_BITS, BEAT_BYTES, AcceleratorConfig
from .delay import delayed

BANKS = 2
#: Beats of one part of a bank: block RAMs side by side, so deep that a few parts make a bank.
PART = 8192
#: Cycles from the one in which a beat is asked for to that in which it is there.
READ_LATENCY = 4


def chip_beats(config: AcceleratorConfig) -> int:
    """Beats of the memory."""
    return config.chip_bytes // BEAT_BYTES


def place_bits(config: AcceleratorConfig) -> int:
    """Bits of a beat's number in the memory."""
    return (chip_beats(config) - 1).bit_length()


def beat_read(config: AcceleratorConfig) -> data.StructLayout:
    """A beat that is wanted: its number, whether the memory ends before it, and whether it is the last of a burst."""
    return data.StructLayout({"at": place_bits(config), "beyond": 1, "last": 1})


def beat_write(config: AcceleratorConfig) -> data.StructLayout:
    """A beat to be written; without `on` nothing is."""
    return data.StructLayout({"at": place_bits(config), "on": 1, "data": BEAT_BITS})


class ChipMemory(wiring.Component):
    """The banks.

    Members
    -------
    reads : In(stream of `beat_read`) of each manager
    beats : Out(stream of ReadData) of each manager
        In order, `READ_LATENCY` cycles after they were asked for. Who asks has room.
    writes : In(stream of `beat_write`) of each lane
        Reads that are taken in later cycles find them.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "reads": In(stream.Signature(beat_read(config))).array(config.managers),
                "beats": Out(stream.Signature(ReadData, always_ready=True)).array(config.managers),
                "writes": In(stream.Signature(beat_write(config))).array(config.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        banks = []
        for number in range(BANKS):
            m.submodules[f"bank{number}"] = bank = Bank(chip_beats(self._config) // BANKS)
            banks.append(bank)
        self._reads(m, banks)
        self._writes(m, banks)
        return m

    def _reads(self, m: Module, banks: list[Bank]) -> None:
        chosen = _take_turns(m, "read", self.reads)
        places = [delayed(m, each.payload.at[1:], 1, f"read_at{user}") for user, each in enumerate(self.reads)]
        for bank, second in zip(banks, chosen, strict=True):
            m.d.comb += bank.read_at.eq(Mux(second, places[-1], places[0]))
        for user, (request, beats) in enumerate(zip(self.reads, self.beats, strict=True)):
            wanted = request.payload
            note = Cat(request.valid & request.ready, wanted.at[0], wanted.beyond, wanted.last)
            taken, is_odd, beyond, last = delayed(m, note, READ_LATENCY, f"note{user}", control=True)
            m.d.comb += [
                beats.valid.eq(taken),
                beats.payload.data.eq(Mux(is_odd, banks[1].read_data, banks[0].read_data)),
                beats.payload.resp.eq(Mux(beyond, DECERR, OKAY)),
                beats.payload.last.eq(last),
            ]

    def _writes(self, m: Module, banks: list[Bank]) -> None:
        chosen = _take_turns(m, "write", self.writes)
        beats = [delayed(m, each.payload, 1, f"write{user}") for user, each in enumerate(self.writes)]
        for number, (bank, second) in enumerate(zip(banks, chosen, strict=True)):
            on = [each.valid & each.ready & each.payload.on & (each.payload.at[0] == number) for each in self.writes]
            m.d.comb += [
                bank.write_at.eq(Mux(second, beats[-1].at[1:], beats[0].at[1:])),
                bank.write_data.eq(Mux(second, beats[-1].data, beats[0].data)),
                bank.write_on.eq(delayed(m, Cat(on).any(), 1, f"write_on{number}", control=True)),
            ]


class Bank(wiring.Component):
    """One read and one write a cycle of `depth` words of a beat.

    Members
    -------
    read_at : In, read_data : Out
        Three cycles later.
    write_at, write_data, write_on : In
        Read from the next cycle on.
    """

    def __init__(self, depth: int):
        self._depth = depth
        bits = (depth - 1).bit_length()
        super().__init__(
            {
                "read_at": In(bits),
                "read_data": Out(BEAT_BITS),
                "write_at": In(bits),
                "write_data": In(BEAT_BITS),
                "write_on": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        low = (PART - 1).bit_length()
        words = []
        for part, start in enumerate(range(0, self._depth, PART)):
            depth = min(PART, self._depth - start)
            m.submodules[f"part{part}"] = memory = Memory(shape=BEAT_BITS, depth=depth, init=[])
            read, write = memory.read_port(), memory.write_port()
            word = Signal(BEAT_BITS, name=f"word{part}", reset_less=True)
            m.d.comb += [
                read.addr.eq(self.read_at),
                read.en.eq(1),
                write.addr.eq(self.write_at),
                write.data.eq(self.write_data),
                write.en.eq(self.write_on & (self.write_at[low:] == part)),
            ]
            m.d.sync += word.eq(read.data)
            words.append(word)
        part = delayed(m, self.read_at[low:], 2, "part")
        m.d.sync += self.read_data.eq(Array(words)[part] if len(words) > 1 else words[0])
        return m


def _take_turns(m: Module, name: str, requests) -> list[Signal]:
    """Who may go: everybody, but of two that want the same bank the one that did not go the last time.

    Returns for each bank whether, in the next cycle, the second's request is the one that goes to it.
    """
    chosen = [Signal(name=f"{name}_second{number}") for number in range(BANKS)]
    for request in requests:
        m.d.comb += request.ready.eq(1)
    if len(requests) == 2:
        turn = Signal(name=f"{name}_turn")
        first, second = requests
        places = [request.payload.at[0] for request in requests]
        clash = first.valid & second.valid & (places[0] == places[1])
        m.d.comb += [first.ready.eq(~(clash & turn)), second.ready.eq(~(clash & ~turn))]
        m.d.sync += turn.eq(turn ^ clash)
        for number, signal in enumerate(chosen):
            asked = [request.valid & (place == number) for request, place in zip(requests, places, strict=True)]
            m.d.sync += signal.eq(asked[1] & (turn | ~asked[0]))
    return chosen
