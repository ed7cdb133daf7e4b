"""A plan on a board: its tensors get addresses, operands are packed and written, nodes run, results are read.

What one node needs lies in the board's memory together. An operand's bytes stay there after that as long as its tensor
lives and there is room, so whoever needs the same bytes again, a later node or another plan, does not write them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from host.operand import Operand
from host.plan.arrange import Calls, apply
from host.plan.formats import Digits, Sums, Table, cut
from host.plan.memory import Memory, NoRoom, Region
from host.plan.plan import Node, Plan, Spec, Target, Tensor
from rtl.isa import Descriptor


class Device(Protocol):
    """What a plan needs of a board: its memory, and descriptors run."""

    @property
    def target(self) -> Target:
        """The accelerator that it is."""
        ...

    @property
    def memory(self) -> Memory:
        """Who lies where."""
        ...

    def put(self, address: int, data: np.ndarray) -> None:
        """Write bytes of an operand."""
        ...

    def get(self, address: int, nbytes: int) -> np.ndarray:
        """Read bytes of a result."""
        ...

    def run(self, descriptors: Sequence[Descriptor]) -> None:
        """Execute descriptors and return when all have completed."""
        ...


class Bound:
    """A plan on a board. Write every operand, run, read the result; then again, if need be.

    Raises
    ------
    ValueError
        If the plan is for another accelerator.
    """

    def __init__(self, plan: Plan, board: Device):
        if plan.target.config != board.target.config or plan.target.memory_bytes > board.target.memory_bytes:
            raise ValueError(f"a plan for {plan.target} does not fit a board of {board.target}")
        self.plan, self._board = plan, board
        self._operands: dict[str, Operand] = {}
        self._arranged: dict[tuple[str, Calls], np.ndarray] = {}
        self._regions: dict[int, Region] = {}
        self._whole: np.ndarray | None = None

    def write(self, name: str, operand: Operand) -> None:
        """Say what an operand is; its bytes go to the board when a node needs them and they are not there yet.

        Raises
        ------
        ValueError
            If the plan has no such operand, or another shape, width or sign of it.
        """
        if name not in self.plan.operands:
            raise ValueError(f"the plan has no operand {name!r}; there are {', '.join(self.plan.operands)}")
        found, wanted = Spec.of(operand), self.plan.operands[name]
        if found != wanted:
            raise ValueError(f"operand {name!r} is {found}, the plan is for {wanted}")
        self._operands[name] = operand

    def run(self) -> None:
        """Run all nodes.

        Raises
        ------
        ValueError
            If an operand has not been written.
        OverflowError
            If the sums of these operands may exceed what the plan is for.
        AcceleratorError
            If the board stops.
        """
        missing = self.plan.operands.keys() - self._operands.keys()
        if missing:
            raise ValueError(f"operands not written: {', '.join(sorted(missing))}")
        bound = self.plan.bound(*(self._operands[name] for name in self.plan.operands))
        if bound >= 1 << self.plan.reach - 1:
            raise OverflowError(f"sums may reach {bound}, the plan is for {self.plan.reach} signed bits")
        self._whole = None
        try:
            for node in self.plan.nodes:
                self._run(node)
        except BaseException:
            self._board.memory.clear()  # nobody knows what the board has left undone
            raise
        finally:
            self._arranged.clear()
            self._give_back()

    def read(self) -> np.ndarray:
        """The exact result, int64. Raises ValueError before the first `run`."""
        if self._whole is None:
            raise ValueError("the plan has not run")
        return apply(self.plan.finish, self._whole)

    def _run(self, node: Node) -> None:
        try:
            self._place(node)
        except NoRoom:
            # Tensors that are kept, perhaps this node's own, leave only narrow gaps: begin with an empty memory.
            self._give_back()
            self._board.memory.clear()
            self._place(node)
        self._board.run(node.at(lambda number: self._regions[number].address))
        for number in node.writes:
            self._collect(self.plan.tensors[number], self._regions[number])
        self._give_back()

    def _place(self, node: Node) -> None:
        for number in node.reads + node.writes:
            tensor = self.plan.tensors[number]
            operand = self._operands.get(tensor.name)
            if operand is None:
                self._regions[number] = self._board.memory.take(tensor.nbytes)
            else:
                self._regions[number] = self._written(tensor, operand)

    def _written(self, tensor: Tensor, operand: Operand) -> Region:
        """The region with an operand's part, from an earlier time or now."""
        memory, owner = self._board.memory, operand if operand.origin is None else operand.origin
        key = (tensor.format, None if operand.table is None else operand.table.tobytes())
        region = memory.find(owner, key)
        if region is None:
            region = memory.take(tensor.nbytes)
            self._board.put(region.address, self._packed(tensor, operand))
            memory.keep(region, owner, key)
        return region

    def _packed(self, tensor: Tensor, operand: Operand) -> np.ndarray:
        form = tensor.format
        if isinstance(form, Table):
            return form.pack(operand.table)
        assert not isinstance(form, Sums | Digits)  # the board itself makes those
        made = (tensor.name, form.arrange)
        if made not in self._arranged:
            self._arranged[made] = apply(form.arrange, operand.narrow())
        return form.pack(self._arranged[made], operand.table)

    def _collect(self, tensor: Tensor, region: Region) -> None:
        """Read results and add them to what there is of the whole."""
        form = tensor.format
        assert isinstance(form, Sums)
        table = next((operand.table for operand in self._operands.values() if operand.table is not None), None)
        part = form.unpack(self._board.get(region.address, form.nbytes), table)
        if part.shape == self.plan.shape and len(self.plan.nodes) == 1:
            self._whole = part
            return
        if self._whole is None:
            self._whole = np.zeros(self.plan.shape, np.int64)
        place = cut(self._whole, form.part)
        place += part

    def _give_back(self) -> None:
        for region in self._regions.values():
            self._board.memory.release(region)
        self._regions.clear()
