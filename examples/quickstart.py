"""Your own data and your own network, trained on the accelerator under a precision schedule, in one page.

    python examples/quickstart.py                 # on the numpy model: a few seconds
    python examples/quickstart.py --board sim     # through the compiled RTL, with cycles

The data are 1,797 real digits of 8 x 8 pixels. PFQ starts with 3-bit operands and widens them whenever the loss stops
falling; the script fails if the network does not reach its accuracy.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

from host import open_board
from host.nn.float_layers import BatchNorm2d, GlobalAvgPool2d, ReLU, softmax_cross_entropy
from host.nn.layers import Context, Conv2d, Linear, Sequential
from host.nn.optim import SGD, cosine_lr
from host.quantise import Precision
from host.schedules import PFQSchedule

EPOCHS, BATCH, PEAK_RATE = 6, 64, 0.2
ENOUGH = 0.9

parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--board", default="golden", help="where the products run (default: golden)")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
rng = np.random.default_rng(args.seed)

# Your data: images (N, C, H, W) as floats, labels as integers.
digits = load_digits()
images = (digits.images[:, None] / 8 - 1).astype(np.float32)
order = rng.permutation(len(images))
train, test = order[:1437], order[1437:]

# Your network. Convolutions and the linear layer run on the board in all three passes.
network = Sequential(
    conv1=Conv2d(1, 16, rng=rng, first=True),
    bn1=BatchNorm2d(16),
    relu1=ReLU(),
    conv2=Conv2d(16, 32, stride=2, rng=rng),
    bn2=BatchNorm2d(32),
    relu2=ReLU(),
    pool=GlobalAvgPool2d(),
    fc=Linear(32, 10, rng=rng),
)

board = open_board(args.board)
optimiser = SGD(network)
total = EPOCHS * -(-len(train) // BATCH)
stages = [Precision(3, 6), Precision(4, 6), Precision(6, 8), Precision(8, 8)]
schedule = PFQSchedule(stages, epsilon=0.05, alpha=0.3, indicator_every=4, total=total, guard=0.6)

iteration = 0
for epoch in range(EPOCHS):
    losses = []
    for batch in np.array_split(rng.permutation(train), total // EPOCHS):
        context = Context(board, schedule.precision, rng=rng)
        loss, gradient = softmax_cross_entropy(network.forward(images[batch], context), digits.target[batch])
        network.backward(gradient, context)
        optimiser.step(cosine_lr(PEAK_RATE, iteration, total, warmup=5))
        if switch := schedule.observe(loss):
            print(f"  {switch.precision} from iteration {switch.iteration}")
        losses.append(loss)
        iteration += 1
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f} at {schedule.precision}")

logits = network.forward(images[test], Context(board, schedule.precision, training=False))
accuracy = float(np.mean(np.argmax(logits, axis=1) == digits.target[test]))
counters = board.counters()
board.close()
print(f"test accuracy {accuracy:.1%}; {counters['bit_macs']:,} bit-MACs, {counters.get('cycles', 'no')} cycles")
if accuracy < ENOUGH:
    raise SystemExit(f"expected at least {ENOUGH:.0%}")
