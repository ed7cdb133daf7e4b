"""The read commands of a vector pass: a row of each stream in turn, coefficients before the rows that need them."""

from __future__ import annotations

from contextlib import nullcontext

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, WORD_CHANNELS, AcceleratorConfig
from .dma import Command
from .queue import Queue
from .states import States
from .tiles import VectorTile
from .vector_block import COEFFICIENTS_BYTES
from .vector_rows import Place, Rows
from .vector_shape import PLANES, Shape

#: Groups of four positions that the buffer of every stream holds.
RING = 32
#: Sets of coefficients, those of 16 channels each, that are read ahead.
SETS = 2
SET_BYTES = WORD_CHANNELS * COEFFICIENTS_BYTES
SET_BEATS = SET_BYTES // BEAT_BYTES


class Read(enum.Enum, shape=3):
    """What a command reads."""

    COEFFICIENTS = 0
    U = 1
    V = 2
    X = 3
    MASK = 4


#: A command on its way, as the receiving side needs to know it.
Note = data.StructLayout(
    {
        "read": Read,
        "planes": PLANES,
        "signed": 1,
        "last": 1,  # with it a row is complete, as far as this manager reads it
    }
)

TENSORS = {Read.U: "u", Read.V: "v", Read.X: "x", Read.MASK: "mask"}


def manager_of(read: Read, managers: int) -> int:
    """Which manager reads it: stream u is read over the last, everything else over the first."""
    return managers - 1 if read == Read.U else 0


class VectorIssue(wiring.Component):
    """Sends the commands of a row as soon as the buffers have room for it.

    Members
    -------
    tile : In(VectorTile), shape : In(Shape)
        Stable from the cycle before `load` on.
    load : In(1)
        Begin.
    drained : In(1), set_drained : In(1)
        Pulses: a row, or a set of coefficients, has left the buffers.
    command : Out(stream of dma.Command), notes : Out(stream of Note)
        Of each manager. A note is there at the latest with its command.
    used : Out(1)
        Of each manager: rows are read over it.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        managers = config.managers
        super().__init__(
            {
                "tile": In(VectorTile),
                "shape": In(Shape),
                "load": In(1),
                "drained": In(1),
                "set_drained": In(1),
                "command": Out(stream.Signature(Command)).array(managers),
                "notes": Out(stream.Signature(Note)).array(managers),
                "used": Out(1).array(managers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tile, shape = self.tile, self.shape
        m.submodules.rows = rows = Rows()
        states = States(m, "IDLE", "ROW", *(read.name for read in Read), "NEXT")
        m.d.comb += [
            rows.height.eq(tile.height),
            rows.samples.eq(tile.samples),
            rows.channel_blocks.eq(tile.channel_blocks),
            rows.load.eq(self.load),
            rows.step.eq(states.at["NEXT"]),
        ]
        places = self._places(m, rows)
        wanted = self._wanted(m, rows)
        set_sent = Signal()
        room, set_room = self._room(m, states, set_sent)
        queues = self._queues(m)

        def go_on(after: int) -> None:
            """To the next stream of the row that is read."""
            others = list(Read)[after:]
            for i, read in enumerate(others):
                with m.Elif(wanted[read]) if i else m.If(wanted[read]):
                    states.go(read.name)
            with m.Else() if others else nullcontext():
                states.go("NEXT")

        with states.state("IDLE"):
            with m.If(self.load):
                states.go("ROW")
        with states.state("ROW"):
            with m.If(room):
                go_on(0)
        for number, read in enumerate(Read):
            commands, notes = queues[manager_of(read, self._config.managers)]
            with states.state(read.name):
                sent = commands.i.ready & notes.i.ready
                if read == Read.COEFFICIENTS:
                    sent &= set_room
                    m.d.comb += [set_sent.eq(sent), commands.i.payload.beats.eq(SET_BEATS)]
                else:
                    tensor = getattr(tile, TENSORS[read])
                    m.d.comb += [
                        commands.i.payload.beats.eq(getattr(shape.beats, TENSORS[read])),
                        notes.i.payload.planes.eq(tensor.planes),
                        notes.i.payload.signed.eq(tensor.signed),
                        notes.i.payload.last.eq(self._completes(wanted, read)),
                    ]
                m.d.comb += [
                    commands.i.valid.eq(sent),
                    commands.i.payload.addr.eq(places[read]),
                    notes.i.valid.eq(sent),
                    notes.i.payload.read.eq(read),
                ]
                with m.If(sent):
                    go_on(number + 1)
        with states.state("NEXT"):
            with m.If(rows.last.all):
                states.go("IDLE")
            with m.Else():
                states.go("ROW")
        return m

    def _places(self, m: Module, rows: Rows) -> dict[Read, Signal]:
        """The address of each stream's row."""
        places = {}
        for read in Read:
            m.submodules[f"place_{read.name.lower()}"] = place = Place(ADDRESS_BITS)
            if read == Read.COEFFICIENTS:
                vector = self.tile.vector
                strides = vector.coefficients, 0, vector.coefficients_stride, SET_BYTES
            else:
                tensor = getattr(self.tile, TENSORS[read])
                strides = tensor.base, tensor.stride_y, tensor.stride_n, tensor.stride_c
            members = place.base, place.row, place.sample, place.block
            m.d.comb += [
                *(member.eq(stride) for member, stride in zip(members, strides, strict=True)),
                place.load.eq(rows.load),
                place.step.eq(rows.step),
                place.last.eq(rows.last),
            ]
            places[read] = place.o
        return places

    def _wanted(self, m: Module, rows: Rows) -> dict[Read, Signal]:
        """Which streams are read, coefficients with this row."""
        wanted = {read: Signal(name=f"wanted_{read.name.lower()}") for read in Read}
        for read, name in TENSORS.items():
            m.d.sync += wanted[read].eq(getattr(self.tile, name).planes.any())
        m.d.sync += wanted[Read.U].eq(self.shape.results | self.tile.u.planes.any())
        each_sample = self.tile.vector.controls.each_sample
        m.d.comb += wanted[Read.COEFFICIENTS].eq(Mux(each_sample, rows.first.sample, rows.first.block))
        for manager, used in enumerate(self.used):
            m.d.comb += used.eq(Cat(wanted[read] for read in self._tensors_of(manager)).any())
        return wanted

    def _tensors_of(self, manager: int) -> list[Read]:
        return [read for read in TENSORS if manager_of(read, self._config.managers) == manager]

    def _completes(self, wanted: dict[Read, Signal], read: Read):
        """No stream after `read` is read over its manager."""
        tensors = self._tensors_of(manager_of(read, self._config.managers))
        return ~Cat(wanted[other] for other in tensors[tensors.index(read) + 1 :]).any()

    def _room(self, m: Module, states: States, set_sent: Signal) -> tuple[Signal, Signal]:
        """Whether there is room for a row, and for a set of coefficients.

        All buffers are rings of as many groups, so that a row takes as much of each.
        """
        groups = self.shape.groups
        spare = Signal(range(-RING, RING + 1), init=RING)  # groups that are free behind the next row
        taken = Signal()
        room = ~spare[-1]
        m.d.comb += taken.eq(states.at["ROW"] & room)
        with m.If(self.load):
            m.d.sync += spare.eq(RING - groups)
        with m.Elif(taken & ~self.drained):
            m.d.sync += spare.eq(spare - groups)
        with m.Elif(self.drained & ~taken):
            m.d.sync += spare.eq(spare + groups)

        sets = Signal(range(SETS + 1), init=SETS)
        m.d.sync += sets.eq(sets + self.set_drained - set_sent)
        return room, sets.any()

    def _queues(self, m: Module) -> list[tuple[Queue, Queue]]:
        """Of each manager the commands and the notes; they hide how commands are taken."""
        queues = []
        for manager in range(self._config.managers):
            m.submodules[f"commands{manager}"] = commands = Queue(Command, 2)
            m.submodules[f"notes{manager}"] = notes = Queue(Note, 2 * self._config.outstanding)
            wiring.connect(m, commands.o, wiring.flipped(self.command[manager]))
            wiring.connect(m, notes.o, wiring.flipped(self.notes[manager]))
            m.d.comb += commands.i.payload.index.eq(self.tile.index)
            queues.append((commands, notes))
        return queues
