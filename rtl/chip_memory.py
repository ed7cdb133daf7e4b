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
        _take_turns(m, "read", self.reads)
        _take_turns(m, "write", self.writes)
        words, whose, beyond, last = zip(*(self._bank(m, number) for number in range(BANKS)), strict=True)
        for user, beats in enumerate(self.beats):
            # A user asks for one beat at a time, so no more than one bank has one for it.
            is_odd = whose[1][user]
            m.d.comb += [
                beats.valid.eq(whose[0][user] | is_odd),
                beats.payload.data.eq(Mux(is_odd, words[1], words[0])),
                beats.payload.resp.eq(Mux(Mux(is_odd, beyond[1], beyond[0]), DECERR, OKAY)),
                beats.payload.last.eq(Mux(is_odd, last[1], last[0])),
            ]
        return m

    def _bank(self, m: Module, number: int) -> tuple:
        """Every `BANKS`-th beat. What it has read: the word, a bit for each user whose it is, beyond, last."""
        m.submodules[f"bank{number}"] = bank = Bank(chip_beats(self._config) // BANKS)
        hits, read = _for_bank(self.reads, number)
        notes = Cat(*hits, read.beyond, read.last)
        notes = delayed(m, notes, READ_LATENCY, f"note{number}", control=True)
        m.d.comb += bank.read_at.eq(read.at[1:])
        hits, write = _for_bank(self.writes, number)
        m.d.comb += [
            bank.write_at.eq(write.at[1:]),
            bank.write_data.eq(write.data),
            bank.write_on.eq(Cat(hits).any() & write.on),
        ]
        users = len(self.reads)
        return bank.read_data, notes[:users], notes[users], notes[users + 1]


class Bank(wiring.Component):
    """One read and one write a cycle of `depth` words of a beat.

    Members
    -------
    read_at : In, read_data : Out
        `READ_LATENCY` cycles later.
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
        read_at = delayed(m, self.read_at, 1, "read_at")
        write_at = delayed(m, self.write_at, 1, "write_at")
        write_data = delayed(m, self.write_data, 1, "write_data")
        write_on = delayed(m, self.write_on, 1, "write_on", control=True)
        low = (PART - 1).bit_length()
        words = []
        for part, start in enumerate(range(0, self._depth, PART)):
            m.submodules[f"part{part}"] = memory = Memory(
                shape=BEAT_BITS, depth=min(PART, self._depth - start), init=[]
            )
            read, write = memory.read_port(), memory.write_port()
            word = Signal(BEAT_BITS, name=f"word{part}", reset_less=True)
            m.d.sync += word.eq(read.data)
            m.d.comb += [
                read.addr.eq(read_at),
                read.en.eq(1),
                write.addr.eq(write_at),
                write.data.eq(write_data),
                write.en.eq(write_on & (write_at[low:] == part)),
            ]
            words.append(word)
        chosen = delayed(m, read_at[low:], 2, "part")
        m.d.sync += self.read_data.eq(Array(words)[chosen] if len(words) > 1 else words[0])
        return m


def _take_turns(m: Module, name: str, requests) -> None:
    """Who may go: everybody, but of two that want the same bank the one that did not go the last time."""
    for request in requests:
        m.d.comb += request.ready.eq(1)
    if len(requests) == 2:
        first, second = requests
        clash = Signal(name=f"{name}s_clash")
        turn = Signal(name=f"{name}_turn")
        m.d.comb += [
            clash.eq(first.valid & second.valid & (first.payload.at[0] == second.payload.at[0])),
            first.ready.eq(~clash | ~turn),
            second.ready.eq(~clash | turn),
        ]
        m.d.sync += turn.eq(turn ^ clash)


def _for_bank(requests, number: int) -> tuple:
    """Whose request goes to a bank in this cycle, a bit for each, and the request."""
    hits = [each.valid & each.ready & (each.payload.at[0] == number) for each in requests]
    payloads = [each.payload for each in requests]
    chosen = payloads[0]
    if len(payloads) == 2:
        chosen = data.View(chosen.shape(), Mux(hits[1], payloads[1].as_value(), payloads[0].as_value()))
    return hits, chosen
