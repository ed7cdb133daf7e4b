"""The read commands of a vector pass: a row of each stream in turn, coefficients before the rows that need them."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi import ADDRESS_BITS
from .config import BEAT_BYTES, WORD_CHANNELS, AcceleratorConfig
from .countdown import Countdown
from .delay import delayed
from .dma import Command
from .queue import PacedQueue, Queue
from .states import States
from .tiles import VectorTile
from .vector_block import COEFFICIENTS_BYTES
from .vector_rows import Place, Rows, room_in_ring
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
        "first_part": 1,  # it is the first of the parts of stream u
        "last_part": 1,
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
        part_sent = Signal()
        first_part, last_part = self._parts(m, states, places, part_sent)
        wanted = self._wanted(m, rows)
        set_sent = Signal()
        room, set_room = self._room(m, states, set_sent)
        queues = self._queues(m)

        following = {read: self._following(m, wanted, read) for read in Read}

        def go_on(after: Read) -> None:
            """To the next stream of the row that is read."""
            for name, follows in following[after].items():
                with m.If(follows):
                    states.go(name)

        with states.state("IDLE"):
            with m.If(self.load):
                states.go("ROW")
        with states.state("ROW"):
            with m.If(room & wanted[Read.COEFFICIENTS]):
                states.go("COEFFICIENTS")
            with m.Elif(room):
                go_on(Read.COEFFICIENTS)
        for read in Read:
            commands, notes, sendable = queues[manager_of(read, self._config.managers)]
            with states.state(read.name):
                sent = sendable
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
                if read == Read.U:
                    m.d.comb += [
                        part_sent.eq(sent),
                        notes.i.payload.last.eq(self._completes(wanted, read) & last_part),
                        notes.i.payload.first_part.eq(first_part),
                        notes.i.payload.last_part.eq(last_part),
                    ]
                m.d.comb += [
                    commands.i.valid.eq(sent),
                    commands.i.payload.addr.eq(places[read]),
                    notes.i.valid.eq(sent),
                    notes.i.payload.read.eq(read),
                ]
                with m.If(sent & (last_part if read == Read.U else 1)):
                    go_on(read)
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

    def _parts(self, m: Module, states: States, places: dict[Read, Signal], sent: Signal) -> tuple[Signal, Signal]:
        """Stream u once for each of its parts: its address follows them. Returns whether it is the first or last.

        All of it is known two cycles after a row or a part, and no two commands follow closer upon one another.
        """
        parts = self.tile.parts
        left = Countdown(len(parts.more) + 1, "parts")
        address = Signal(ADDRESS_BITS, name="part_address", reset_less=True)
        first = Signal(name="first_part")
        sent = delayed(m, sent, 1, "part_sent", control=True)
        with m.If(first):
            m.d.sync += address.eq(places[Read.U])
        with m.If(sent):
            m.d.sync += [address.eq(address + parts.stride), first.eq(0), *left.step()]
        with m.If(states.at["NEXT"] | self.load):
            m.d.sync += [first.eq(1), *left.start(parts.more + 1)]
        places[Read.U] = address
        return first, left.last

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

    def _following(self, m: Module, wanted: dict[Read, Signal], after: Read) -> dict[str, Signal]:
        """One-hot, for all of a pass: the state of the first stream behind `after` that is read, or NEXT."""
        following = {}
        earlier = Const(0)
        for read in list(Read)[list(Read).index(after) + 1 :]:
            following[read.name] = wanted[read] & ~earlier
            earlier |= wanted[read]
        following["NEXT"] = ~earlier
        flags = {name: Signal(name=f"{name.lower()}_follows_{after.name.lower()}") for name in following}
        m.d.sync += [flags[name].eq(value) for name, value in following.items()]
        return flags

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
        taken = Signal()
        room = room_in_ring(m, RING, self.shape.groups, self.load, taken, self.drained)
        m.d.comb += taken.eq(states.at["ROW"] & room)
        sets = Signal(range(SETS + 1), init=SETS)
        m.d.sync += sets.eq(sets + self.set_drained - set_sent)
        return room, sets.any()

    def _queues(self, m: Module) -> list[tuple[PacedQueue, Queue, Signal]]:
        """Of each manager the commands and the notes, which hide how commands are taken, and whether there is room."""
        queues = []
        for manager in range(self._config.managers):
            m.submodules[f"commands{manager}"] = commands = PacedQueue(Command)
            m.submodules[f"notes{manager}"] = notes = Queue(Note, 2 * self._config.outstanding)
            wiring.connect(m, commands.o, wiring.flipped(self.command[manager]))
            wiring.connect(m, notes.o, wiring.flipped(self.notes[manager]))
            m.d.comb += commands.i.payload.index.eq(self.tile.index)
            room = Signal(name=f"room{manager}")  # looked at again when a command has been taken
            m.d.sync += room.eq(commands.i.ready & notes.i.ready & ~room)
            queues.append((commands, notes, room))
        return queues
