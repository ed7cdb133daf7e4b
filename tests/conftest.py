import struct

import numpy as np
import pytest
from fixtures import pytest_configure, rng  # noqa: F401
from runs import results, settings

from host import open_board
from host.data.datasets import load_dataset
from host.training.config import TrainConfig
from host.training.trainer import Trainer


@pytest.fixture(scope="module")
def board():
    """The golden model, for modules that do not say otherwise."""
    board = open_board("golden")
    yield board
    board.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An IDX folder of 22 training and 10 test images of 4 x 4 pixels: three classes, a bright row each."""
    folder = tmp_path_factory.mktemp("rows")
    numbers = np.random.default_rng(50)
    for prefix, count in (("train", 22), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = numbers.integers(0, 100, (count, 4, 4)).astype(np.uint8)
        images[np.arange(count), labels] += 120
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return str(folder)


@pytest.fixture
def trainer(data, tmp_path):
    """Builds trainers of the same run in tmp_path / name, each as a new process would."""

    def build(name, board=None, checkpoint_seconds=1e9, **changes):
        config = TrainConfig.of(**settings({"data": data, **changes}))
        (tmp_path / name).mkdir(exist_ok=True)
        board = board or open_board("golden")
        return Trainer(config, board, load_dataset(data), tmp_path / name, checkpoint_seconds=checkpoint_seconds)

    return build


@pytest.fixture
def whole(trainer):
    """The results of a run that nobody interrupts."""
    run = trainer("whole")
    assert run.run()
    return results(run.out)
