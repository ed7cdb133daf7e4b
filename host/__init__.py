"""Host of the accelerator: boards, exact products on them, and training.

`open_board` gives a board, `QTensor` holds operands, `ops` multiplies them.
"""

from host import ops
from host.backends import open_board
from host.qtensor import QTensor

__all__ = ["QTensor", "open_board", "ops"]
