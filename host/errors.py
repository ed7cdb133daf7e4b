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
        self.code = code
        self.index = index
        meaning = "unknown to this host"
        if code in [error.value for error in Error if error]:
            self.code = error = Error(code)
            meaning = f"{error.name}, {error.meaning}"
        super().__init__(f"the accelerator stopped at descriptor {index} with error {int(code)}: {meaning}")
