"""Anyone's PyTorch model on a board: `on_board` turns its convolutions and linear layers into ones that run there.

The model stays a PyTorch model, with its parameters, its optimiser and its own training loop. Forward multiplies the
activations and weights rounded to `fw` bits; backward rounds the gradient at the output stochastically to `bw` bits and
multiplies it with the same codes (FracTrain, section 3.1). Biases and all other layers stay in floating point.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from host.backends.torch import MISSING
from host.board import Board
from host.nn.products import Convolution, Kind, Matrix
from host.quantise import Precision, quantise, rescale
from host.schedules import Schedule, StaticSchedule, Switch

try:
    import torch
    from torch import Tensor, nn
    from torch.autograd.function import once_differentiable
    from torch.nn import functional
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(MISSING.format("host.torch")) from None


def on_board(
    model: nn.Module,
    board: Board,
    schedule: Schedule | Precision,
    *,
    keep_float: Collection[str] = (),
    min_bits: Mapping[str, int] | None = None,
    seed: int = 0,
) -> BoardRun:
    """Make every `nn.Conv2d` and `nn.Linear` of `model`, a module of these types itself included, run on a board.

    The modules stay where they are, with the same parameters, names and hooks: only their forward changes. They may lie
    on any device; what the board needs is copied to it and back.

    Parameters
    ----------
    schedule : gives the precision of every step; a `Precision` stays the same.
    keep_float : names of modules, as in `model.named_modules()`, that stay as they are.
    min_bits : for some modules the narrowest operand that they take, whatever the schedule says.
    seed : of the stochastic rounding of gradients.

    Returns
    -------
    BoardRun
        Call its `step(loss)` after each training step.

    Raises
    ------
    ValueError
        If a module cannot run there (it has groups, a dilation, or two different strides, or runs on a board already),
        or a name is none of the model's; the message names it. The model is as it was then.
    """
    names = dict(model.named_modules())
    for name in (*keep_float, *(min_bits or {})):
        if name not in names:
            raise ValueError(f"the model has no module {name!r}")
    chosen = {
        name: module
        for name, module in names.items()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in keep_float
    }
    for name, module in chosen.items():
        if reason := _refusal(module):
            raise ValueError(f"{name!r}, {module}, cannot run on a board: {reason}; keep_float leaves it as it is")
    run = BoardRun(board, StaticSchedule(schedule) if isinstance(schedule, Precision) else schedule, seed)
    for name, module in chosen.items():
        run.adopt(module, (min_bits or {}).get(name, 2))
    return run


class BoardRun:
    """What the modules of a model on a board share.

    Attributes
    ----------
    board : where products run; it counts them.
    schedule : asked for the precision before every product.
    """

    def __init__(self, board: Board, schedule: Schedule, seed: int):
        self.board, self.schedule = board, schedule
        self.noise = np.random.default_rng(seed)
        self._modules: list[nn.Module] = []

    @property
    def precision(self) -> Precision:
        """The precision of the step in progress."""
        return self.schedule.precision

    def step(self, loss: Tensor | float) -> Switch | None:
        """Report the mean loss of the step just done; return the switch of precision that it caused, if any."""
        return self.schedule.observe(float(loss.detach() if isinstance(loss, Tensor) else loss))

    def state_dict(self) -> dict[str, Any]:
        """What the modules' own state lacks to continue bit for bit: the schedule and the noise, as JSON values."""
        return {"schedule": self.schedule.state(), "noise": self.noise.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the state of another schedule raises ValueError."""
        self.schedule.load_state(state["schedule"])
        self.noise.bit_generator.state = state["noise"]

    def adopt(self, module: nn.Module, min_bits: int) -> None:
        """Make a convolution or a linear layer run here."""
        # On the module itself, where it hides the forward of the class until it is deleted.
        forward = _convolution if isinstance(module, nn.Conv2d) else _linear
        module.forward = partial(forward, module, self, min_bits)
        self._modules.append(module)

    def release(self) -> None:
        """Make all modules what they were."""
        for module in self._modules:
            del module.forward
        self._modules.clear()


def _convolution(module: nn.Conv2d, run: BoardRun, min_bits: int, x: Tensor) -> Tensor:
    """What `module` computes, on the board of `run`."""
    if x.dim() == 3:
        return _convolution(module, run, min_bits, x[None])[0]
    padding, pads = _padding(module)
    if pads is not None:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = functional.pad(x, pads, mode=mode)
    kind = Convolution(module.stride[0], padding)
    y = _OnBoard.apply(x.to(module.weight.dtype), module.weight, run, min_bits, kind)
    return y if module.bias is None else y + module.bias[:, None, None]


def _linear(module: nn.Linear, run: BoardRun, min_bits: int, x: Tensor) -> Tensor:
    """What `module` computes, on the board of `run`."""
    flat = x.reshape(-1, module.in_features).to(module.weight.dtype)
    y = _OnBoard.apply(flat, module.weight.T, run, min_bits, Matrix())
    y = y.reshape(*x.shape[:-1], module.out_features)
    return y if module.bias is None else y + module.bias


class _OnBoard(torch.autograd.Function):
    """The product of `kind` of x and weight, with the batch as first axis of x and of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, run: BoardRun, min_bits: int, kind: Kind) -> Tensor:
        precision = run.precision.at_least(min_bits)
        # Activations without a negative value get the grid that has no codes for them, as those after a ReLU should.
        qx = quantise(x, precision.fw, signed=bool((x < 0).any()))
        qw = quantise(weight, precision.fw, signed=True)
        ctx.run, ctx.kind, ctx.bits, ctx.operands = run, kind, precision.bw, (qx, qw)
        return rescale(kind.forward(run.board, qx, qw), qx.scale * qw.scale, like=x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (qx, qw), kind, board = ctx.operands, ctx.kind, ctx.run.board
        qg = quantise(dy, ctx.bits, signed=True, rng=ctx.run.noise)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = rescale(kind.input_grad(board, qg, qw, qx.shape), qg.scale * qw.scale, like=dy)
        if ctx.needs_input_grad[1]:
            dw = rescale(kind.weight_grad(board, qg, qx, qw.shape), qg.scale * qx.scale, like=dy)
        return dx, dw, None, None, None


def _refusal(module: nn.Module) -> str | None:
    """Why a board does not compute this module, if it does not."""
    if "forward" in vars(module):
        return "it runs on a board already, unless something else has replaced its forward"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return f"it has {module.groups} groups"
        if module.dilation != (1, 1):
            return f"its dilation is {module.dilation}"
        if module.stride[0] != module.stride[1]:
            return f"its strides {module.stride} differ"
    return None


def _padding(module: nn.Conv2d) -> tuple[int, tuple[int, ...] | None]:
    """The padding that the board does, and what is to be padded before, as `functional.pad` takes it, or None."""
    kernel = module.kernel_size
    if isinstance(module.padding, str):  # "same" or "valid"
        same = module.padding == "same"
        pads = tuple(side if same else 0 for k in reversed(kernel) for side in ((k - 1) // 2, k // 2))
    else:
        rows, columns = module.padding
        pads = (columns, columns, rows, rows)
    if module.padding_mode == "zeros" and len(set(pads)) == 1:
        return pads[0], None
    return 0, pads
