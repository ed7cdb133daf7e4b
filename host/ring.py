"""The descriptor ring, as the host lays it out in a board's memory."""

from __future__ import annotations

from rtl.isa import DESCRIPTOR_BYTES

#: Descriptors of the ring, which lies at the start of every board's memory. Operands and results go above.
RING_ENTRIES = 64
RESERVED_BYTES = RING_ENTRIES * DESCRIPTOR_BYTES
