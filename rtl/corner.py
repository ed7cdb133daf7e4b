"""The corner between positions and channels: planes of images become words of one channel at 16 positions."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from .config import BEAT_BITS, BEAT_WORDS, MAX_BITS, WORD_CHANNELS, AcceleratorConfig
from .control import COL_BANKS, ROW_BANKS, stream_fill
from .queue import Queue
from .stream_run import Notice, run

#: Words of all channels that are kept: rows of a plane side by side complete their words with the last image.
WORDS = 2 * MAX_BITS
#: Beats of such a word, of four positions each, and of four channels each when they leave.
SIDE = WORD_CHANNELS // BEAT_WORDS


class Corner(wiring.Component):
    """Transposes words of 16 positions of 16 channels, four beats in and four out.

    A beat has the bits of four positions of each channel, and is turned by its number first, so that neither the beats
    that come nor those that leave have two of those nibbles in one bank of LUTRAM. Missing beats are zero.

    Members
    -------
    begin : In(1), following : In(run)
        The next beats are those of this run.
    valid : In(1), beat : In(64)
    row_end : In(1), run_end : In(1), done : In(1)
        The beat is the last of a row of a plane, of its run, of its slot.
    planes : In(16)
        Planes of the slot with a set bit, up to the beat.
    fill : Out(control.stream_fill), notice : Out(Notice)
        What leaves, and that a slot is full with it.
    hold : Out(1)
        More beats come than leave.
    """

    #: From a word's last beat to its first on `fill`.
    LATENCY = 5
    #: Words that wait when no more may come: some are still on their way.
    ENOUGH = WORDS // 4

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "begin": In(1),
                "following": In(run(config)),
                "valid": In(1),
                "beat": In(BEAT_BITS),
                "row_end": In(1),
                "run_end": In(1),
                "done": In(1),
                "planes": In(MAX_BITS),
                "fill": Out(stream_fill(config)),
                "notice": Out(Notice),
                "hold": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = Queue(self._word_layout(), WORDS // 2)
        m.submodules.words = words
        write = self._receive(m, words)
        step, number = self._send(m, words)
        self._transpose(m, write, words.o.valid, step, number, words.o.payload)
        return m

    def _word_layout(self) -> data.StructLayout:
        """A word of all channels: where it goes, its last beat, whether it completes the slot."""
        where = {name: self.following.shape()[name].shape for name in ("clusters", "bank", "turn", "addr")}
        return data.StructLayout({**where, "entry": ceil_log2(SIDE), "done": 1, "planes": MAX_BITS})

    def _receive(self, m: Module, words: Queue):
        """Where beats go, word by word. Returns the place of the one that comes: its word, and its number in it."""
        following = self.following
        run_start = {name: Signal.like(following[name], name=f"{name}_of_row") for name in ("bank", "turn", "addr")}
        here = {name: Signal.like(following[name], name=name) for name in run_start}
        current = Signal(run(self._config), reset_less=True)
        entry = Signal(ceil_log2(SIDE))
        word = Signal(ceil_log2(WORDS))
        first_word = Signal.like(word)  # of the run, and of those of the images beside it
        ends = self.row_end | entry.all()  # of the word
        over = here["bank"] == ROW_BANKS - 1
        with m.If(self.valid):
            m.d.sync += entry.eq(entry + 1)
            with m.If(ends):
                m.d.sync += [
                    word.eq(word + 1),
                    here["bank"].eq(Mux(over, 0, here["bank"] + 1)),
                    here["turn"].eq(here["turn"] + over),
                    here["addr"].eq(here["addr"] + Mux(over, current.row_words, 0)),
                ]
            with m.If(self.row_end):  # the next plane lies behind this one
                next_addr = run_start["addr"] + SIDE
                m.d.sync += [
                    entry.eq(current.entry),
                    here["bank"].eq(run_start["bank"]),
                    here["turn"].eq(run_start["turn"]),
                    here["addr"].eq(next_addr),
                    run_start["addr"].eq(next_addr),
                ]
            with m.If(self.run_end):
                next_word = Mux(current.whole, word + 1, first_word)
                m.d.sync += [word.eq(next_word), first_word.eq(next_word)]
        with m.If(self.begin):
            m.d.sync += [
                current.eq(following),
                entry.eq(following.entry),
                *(signal.eq(following[name]) for each in (run_start, here) for name, signal in each.items()),
            ]

        made = words.i.payload
        m.d.sync += [
            words.i.valid.eq(self.valid & ends & current.whole),
            made.clusters.eq(current.clusters),
            *(made[name].eq(signal) for name, signal in here.items()),
            made.entry.eq(entry),
            made.done.eq(self.done),
            made.planes.eq(self.planes),
        ]
        return Cat(entry, word)

    def _send(self, m: Module, words: Queue):
        """Which four channels of which word leave."""
        step = Signal(ceil_log2(SIDE))
        word = Signal(ceil_log2(WORDS))
        waiting = Signal(range(WORDS // 2 + 1))
        left = Signal()
        leaves = words.o.valid & step.all()
        with m.If(words.o.valid):
            m.d.sync += step.eq(step + 1)
        with m.If(leaves):
            m.d.sync += word.eq(word + 1)
        m.d.sync += [left.eq(leaves), waiting.eq(waiting + words.i.valid - left)]
        m.d.comb += [words.o.ready.eq(step.all()), self.hold.eq(waiting[exact_log2(self.ENOUGH) :].any())]
        return step, word

    def _transpose(self, m: Module, write, offered, step, number, word) -> None:
        """Nibble (beat s, channel 4 a + j): bank s + a, part j of it."""
        found = [Signal(WORD_CHANNELS, name=f"found{b}", reset_less=True) for b in range(SIDE)]
        entry = write[: ceil_log2(SIDE)]
        channels = [Cat(self.beat[c + WORD_CHANNELS * k] for k in range(BEAT_WORDS)) for c in range(WORD_CHANNELS)]
        turned = _turned(Cat(channels), entry)
        for b in range(SIDE):
            bank = Memory(shape=WORD_CHANNELS, depth=WORDS * SIDE, init=[])
            m.submodules[f"bank{b}"] = bank
            port, read = bank.write_port(), bank.read_port(domain="comb")
            m.d.comb += [
                port.addr.eq(write),
                port.data.eq(turned.word_select(b, WORD_CHANNELS)),
                port.en.eq(self.valid),
                read.addr.eq(Cat((b - step)[: len(step)], number)),
            ]
            m.d.sync += found[b].eq(read.data)

        # Beside them goes what is known of the word.
        layout = data.StructLayout({"valid": 1, "step": len(step), "word": self._word_layout()})
        first = Signal(layout, name="first")
        second = Signal(layout, name="second")
        m.d.sync += [first.valid.eq(offered), first.step.eq(step), first.word.eq(word), second.eq(first)]
        nibbles = _turned(Cat(found), first.step, Value.rotate_right)
        beat = Signal(BEAT_BITS, reset_less=True)  # the words of four channels
        for j in range(BEAT_WORDS):
            for s in range(SIDE):
                nibble = nibbles.word_select(s, WORD_CHANNELS).word_select(j, BEAT_WORDS)
                at = (j * SIDE + s) * BEAT_WORDS
                m.d.sync += beat[at : at + BEAT_WORDS].eq(Mux(first.word.entry >= s, nibble, 0))
        turn = second.word.turn
        by_channel = Array(beat.word_select(j, WORD_CHANNELS) for j in range(COL_BANKS))
        m.d.comb += [
            self.fill.valid.eq(second.valid),
            self.fill.clusters.eq(second.word.clusters),
            self.fill.row_bank.eq(second.word.bank),
            self.fill.data.eq(Cat(by_channel[(j - turn)[: ceil_log2(COL_BANKS)]] for j in range(COL_BANKS))),
            *(self.fill.addr[j].eq(second.word.addr + second.step) for j in range(COL_BANKS)),
            self.notice.valid.eq(second.valid & second.word.done & second.step.all()),
            self.notice.planes.eq(second.word.planes),
        ]


def _turned(beat, by, turn=Value.rotate_left):
    """`beat`, turned by quarters."""
    return Array(turn(beat, WORD_CHANNELS * k) for k in range(SIDE))[by]
