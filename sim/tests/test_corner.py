"""The corner against a plain model: rows of images of any width, at the full rate of the bus or with pauses."""

from __future__ import annotations

import random

import cocotb
import numpy as np
from cocotb.triggers import ReadOnly, RisingEdge

from rtl.config import BEAT_WORDS, WORD_CHANNELS, AcceleratorConfig
from rtl.control import stream_fill
from rtl.corner import Corner
from rtl.limits import images_of_word, plane_beats, words_of_row
from rtl.stream_run import Notice, run
from sim.tests.bench import compiled
from sim.tests.bench import run as simulate
from sim.tests.streams import start

CONFIG = AcceleratorConfig.preset("tiny", rows=16, vector=True)
RUN, FILL = run(CONFIG), stream_fill(CONFIG)
ROWS = 40
#: Cycles from `hold` to the last beat, at the most.
LATE = 4


def test_corner(case):
    simulate(compiled(Corner, CONFIG), __name__, case)


def draw(rng):
    """The row of the images of a word: (run, beats) of each, and what leaves."""
    width, planes, clusters = int(rng.integers(1, 65)), int(rng.integers(1, 17)), int(rng.integers(1, 4))
    beats, side, words = plane_beats(width), images_of_word(width), words_of_row(width)
    images = int(rng.integers(1, side + 1))
    bank, turn, addr = int(rng.integers(3)), int(rng.integers(4)), int(rng.integers(40))
    row_words = 4 * planes
    bits = rng.integers(0, 2, (images, planes, beats, BEAT_WORDS, WORD_CHANNELS))
    each = beats if side > 1 else 0
    runs = []
    for image in range(images):
        last = image == images - 1
        values = {"clusters": clusters, "gradient": 1, "entry": image * each, "whole": last, "bank": bank, "turn": turn}
        values |= {"addr": addr, "row_words": row_words, "planes": planes, "plane_beats": beats}
        runs.append((RUN.const(values).as_value().value, bits[image].reshape(planes, beats, -1)))

    lanes = np.zeros((planes, words * 16, WORD_CHANNELS), int)
    columns = words * 16 // side
    for image in range(images):
        start = image * columns
        lanes[:, start : start + 4 * beats] = bits[image].reshape(planes, -1, WORD_CHANNELS)
    leaves = []
    for plane in range(planes):
        for word in range(words):
            group, at = divmod(bank + word, 3)
            turned = (turn + group) % 4
            for step in range(4):
                channels = [4 * step + (j - turned) % 4 for j in range(BEAT_WORDS)]
                found = np.concatenate([lanes[plane, 16 * word : 16 * word + 16, channel] for channel in channels])
                where = addr + 4 * plane + group * row_words + step
                leaves.append((clusters, at, [where] * BEAT_WORDS, number(found)))
    return runs, leaves


def number(bits) -> int:
    return sum(int(bit) << i for i, bit in enumerate(bits))


async def feed(dut, rng, rows, pause):
    """A slot for each row, its planes named by its number; runs one behind the other."""
    sent = 0
    for slot, (runs, _) in enumerate(rows):
        for given, (following, planes) in enumerate(runs):
            if not (slot or given):
                dut.begin.value, dut.following.value = 1, following
                await RisingEdge(dut.clk)
            after = rows[slot][0][given + 1 :] or (rows[slot + 1][0] if slot + 1 < len(rows) else [(0, None)])
            held = 0
            for p, beats in enumerate(planes):
                for b, beat in enumerate(beats):
                    while held > LATE or rng.random() < pause:
                        dut.valid.value, dut.begin.value = 0, 0
                        await RisingEdge(dut.clk)
                        held = held + 1 if dut.hold.value else 0
                    ends = (p, b) == (len(planes) - 1, len(beats) - 1)
                    dut.valid.value, dut.beat.value = 1, number(beat)
                    dut.row_end.value, dut.run_end.value = b == len(beats) - 1, ends
                    dut.done.value, dut.planes.value = ends and given == len(runs) - 1, slot
                    dut.begin.value, dut.following.value = ends, after[0][0]
                    await RisingEdge(dut.clk)
                    held = held + 1 if dut.hold.value else 0
                    sent += 1
    dut.valid.value, dut.begin.value = 0, 0


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def rows_of_images(dut):
    rng = np.random.default_rng(random.getrandbits(32))
    for pause in (0.0, 0.3):
        await start(dut, valid=0, begin=0, following=0, beat=0, row_end=0, run_end=0, done=0, planes=0)
        rows = [draw(rng) for _ in range(ROWS)]
        expected = [leaves for _, row in rows for leaves in row]
        ends = np.cumsum([len(row) for _, row in rows]).tolist()
        feeding = cocotb.start_soon(feed(dut, rng, rows, pause))
        found, full = [], []
        while len(found) < len(expected):
            await ReadOnly()
            fill, notice = (
                FILL.from_bits(dut.fill.value.to_unsigned()),
                Notice.from_bits(dut.notice.value.to_unsigned()),
            )
            if fill.valid:
                found.append((fill.clusters, fill.row_bank, list(fill.addr), fill.data))
            if notice.valid:
                full.append((len(found), notice.planes))
            await RisingEdge(dut.clk)
        await feeding
        assert found == expected
        assert full == list(zip(ends, range(ROWS), strict=True))
