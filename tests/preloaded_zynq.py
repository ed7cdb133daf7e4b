"""A program for a process that has `fake_zynq.c` loaded before all else; see `test_zynq_preloaded`.

    python preloaded_zynq.py ROOT DATA [LOST]

Prints as JSON whether products, and with DATA a training run, are those of the golden board, and what the driver did.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from fake_zynq import BUFFER_BYTES, PHYSICAL, lay_out
from runs import results, settings
from test_zynq import equal, products

from host import open_board
from host.data.datasets import load_dataset
from host.errors import AcceleratorError
from host.training.config import TrainConfig
from host.training.trainer import Trainer
from host.zynq.linux import Linux
from host.zynq.transport import ZynqTransport
from sim.verilated import VerilatedTransport


def counted(method, name: str, counts: Counter):
    def call(*arguments):
        counts[name] += 1
        return method(*arguments)

    return call


def train(board, data: str, out: Path):
    out.mkdir()
    config = TrainConfig.of(**settings({"data": data, "preset": "tiny", "epochs": 1}))
    trainer = Trainer(config, board, load_dataset(data), out, checkpoint_seconds=1e9)
    assert trainer.run()
    return results(out)[0]


def main(root: Path, data: str, lost: str = "") -> None:
    fake = ctypes.CDLL(os.environ["LD_PRELOAD"])
    lay_out(root)
    rtl = VerilatedTransport("tiny", memory_bytes=BUFFER_BYTES)
    functions = [getattr(rtl._library, f"harness_{name}") for name in ("csr_read", "csr_write", "run", "interrupt")]
    memory = rtl._memory.ctypes.data_as(ctypes.c_void_p)
    pointers = [ctypes.cast(function, ctypes.c_void_p) for function in functions]
    fake.attach(ctypes.c_void_p(rtl._handle), *pointers, memory)
    (ctypes.c_uint32 * 2).in_dll(fake, "wanted")[:] = [PHYSICAL, BUFFER_BYTES]
    (ctypes.c_int * 2).in_dll(fake, "lose")[:] = [lost == "sync_for_device", lost == "sync_for_cpu"]

    calls = Counter()
    for name in ("csr_read", "csr_write"):
        setattr(ZynqTransport, name, counted(getattr(ZynqTransport, name), name, calls))
    golden = open_board("golden", config="tiny")
    board = open_board("zynq", linux=Linux(root))
    found = {}
    try:
        found["products"] = equal(products(board), products(golden))
    except (AcceleratorError, TimeoutError) as error:
        found["products"] = str(error)
    if data:
        found["training"] = train(board, data, root / "zynq") == train(golden, data, root / "golden")
    board.close()
    open_board("zynq", linux=Linux(root)).close()  # the lock is gone, though the mapping may still be there
    counts = {name: ctypes.c_uint32.in_dll(fake, name).value for name in ("reads", "writes")}
    syncs = list((ctypes.c_uint32 * 2).in_dll(fake, "syncs"))
    print(json.dumps({**found, **counts, **calls, "syncs": syncs}))


if __name__ == "__main__":
    np.seterr(all="raise")
    main(Path(sys.argv[1]), *sys.argv[2:])
