"""What can go wrong on an accelerator."""

from __future__ import annotations

from rtl.isa import Error


class AcceleratorError(RuntimeError):
    """The accelerator stopped at a descriptor.

    Attributes
    ----------
    code : the error code, an `rtl.isa.Error` where it is a known one.
    index : position of the descriptor in the list that was run.
    """

    def __init__(self, code: int, index: int):
        known = code in iter(Error) and code != Error.NONE
        self.code = Error(code) if known else code
        self.index = index
        meaning = f"{self.code.name}, {self.code.meaning}" if known else "unknown to this host"
        super().__init__(f"the accelerator stopped at descriptor {index} with error {int(code)}: {meaning}")
