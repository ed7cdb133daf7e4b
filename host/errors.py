"""What can go wrong on an accelerator."""

from __future__ import annotations

from rtl.isa import Error

_MEANINGS = {
    Error.OPCODE: "unknown opcode",
    Error.FLAGS: "flags that exclude each other",
    Error.PRECISION: "bits of an operand outside 1..16",
    Error.SHAPE: "a size is zero or contradicts another, or a tile does not fit the buffers",
    Error.ALIGNMENT: "an address or stride is no multiple of 8",
    Error.AXI_FETCH: "bus error while reading a descriptor or a precision table",
    Error.AXI_READ: "bus error while reading an operand",
    Error.AXI_WRITE: "bus error while writing a result",
}


class AcceleratorError(RuntimeError):
    """The accelerator stopped at a descriptor.

    Attributes
    ----------
    code : the error code, an `rtl.isa.Error` where it is a known one.
    index : position of the descriptor in the list that was run.
    """

    def __init__(self, code: int, index: int):
        known = code in _MEANINGS
        self.code = Error(code) if known else code
        self.index = index
        meaning = f"{self.code.name}, {_MEANINGS[self.code]}" if known else "unknown to this host"
        super().__init__(f"the accelerator stopped at descriptor {index} with error {int(code)}: {meaning}")
