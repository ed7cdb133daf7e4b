"""Writes the programming manual out of `rtl.isa`: `python -m rtl.manual > docs/programming-model.md`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from . import errors, isa
from .block import Block, Field, places


def table(head: tuple[str, ...], rows: Iterable[tuple]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def members(enumeration, base: str = "{:d}") -> list[tuple[str, str, str]]:
    """(value, name, meaning) of an enumeration's members; the meaning is the comment `#:` behind each."""
    source = inspect.getsource(enumeration)
    meanings = dict(re.findall(r"^    (\w+) = .*?#: (.*)$", source, re.MULTILINE))
    return [(base.format(int(item)), f"`{item.name}`", meanings.get(item.name, "")) for item in enumeration]


def allowed(field: Field) -> str:
    """What a field may hold, where it is not whatever fits."""
    if field.multiple > 1:
        return f"multiple of {field.multiple}"
    if field.most is None:
        return f"{field.least} or more" if field.least else ""
    return f"{field.least}..{field.most}" if field.most else "0"


def descriptor(blocks: tuple[Block, ...]) -> str:
    """The tables of a descriptor of `blocks`, one a block."""
    parts = []
    for block in blocks:
        rows = [
            (offset, field.bits, f"`{name}`", field.meaning, allowed(field))
            for name, offset, of, field in places(blocks)
            if of is block
        ]
        parts += [
            f"### Block `{block.name}`: {block.meaning}",
            table(("byte", "bits", "field", "meaning", "values"), rows),
        ]
    return "\n\n".join(parts)


def manual(blocks: tuple[Block, ...] = isa.BLOCKS) -> str:
    """The whole manual as Markdown."""
    head, _, operands = inspect.getdoc(isa).partition("Operands in DDR\n---------------\n")
    counters = (
        (f"{isa.CSR.COUNTERS + 8 * i:#05x}", f"`{name}`", meaning) for i, (name, meaning) in enumerate(isa.COUNTERS)
    )
    sections = [
        "# Programming model",
        "This page is written by `python -m rtl.manual` from `rtl/isa.py`; a test keeps the two equal.",
        head.strip(),
        f"Identification `{isa.ID:#010x}`, version {isa.VERSION >> 16}.{isa.VERSION & 0xFFFF}.",
        "## Operands and results in DDR",
        operands.strip(),
        "## Layer descriptor",
        f"{isa.DESCRIPTOR_BYTES} bytes, little endian, in blocks; every field lies at a multiple of its own size. Any "
        "other value than those named stops the ring: unknown flag bits and reserved bytes must be zero.",
        descriptor(blocks),
        "### Opcodes",
        table(("value", "name", "meaning"), members(isa.Opcode)),
        "### Flags",
        table(("value", "name", "meaning"), members(isa.Flag)),
        "### Formats",
        table(("value", "name", "meaning"), members(isa.Format)),
        "### Sources",
        table(("value", "name", "meaning"), members(isa.Source)),
        "### Sinks",
        table(("value", "name", "meaning"), members(isa.Sink)),
        "### Pass bits",
        table(("value", "name", "meaning"), members(isa.Pass)),
        "## Control and status registers",
        table(("address", "name", "meaning"), members(isa.CSR, "{:#05x}")),
        "### CONTROL",
        table(("value", "name", "meaning"), members(isa.Control)),
        "### STATUS",
        table(("value", "name", "meaning"), members(isa.Status)),
        "### IRQ and IRQ_ENABLE",
        table(("value", "name", "meaning"), members(isa.Irq)),
        "### Error codes",
        inspect.getdoc(errors).partition("\n\n")[2],
        table(("value", "name", "meaning"), ((int(e), f"`{e.name}`", e.meaning) for e in isa.Error)),
        "### Counters",
        "48 bits each; reading the low word latches the high one.",
        table(("address", "name", "meaning"), counters),
    ]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    print(manual(), end="")
