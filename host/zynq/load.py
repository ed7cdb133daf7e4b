"""`sudo python3 -m host.zynq.load BUILD`: configures the FPGA with what `rtl.build` and Vivado have left in BUILD.

The kernel's FPGA manager wants the bitstream without its header and with the bytes of each word turned round, and is
told of it by a device tree overlay, which also declares registers, interrupt, clock and buffer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from host.zynq.linux import Linux, MissingError

_SYNC = bytes.fromhex("aa995566")
_OVERLAYS = "/sys/kernel/config/device-tree/overlays"
_STATE = "/sys/class/fpga_manager/fpga0/state"


def firmware(bit: bytes) -> bytes:
    """What the FPGA manager takes, of the contents of a .bit file. Raises ValueError if they are something else."""
    # Two bytes of length before 9 that nobody reads, then fields: a letter, a length (of e four bytes), contents.
    at = 2 + int.from_bytes(bit[:2]) + 2
    while at < len(bit):
        width = 4 if bit[at : at + 1] == b"e" else 2
        begin = at + 1 + width
        end = begin + int.from_bytes(bit[at + 1 : begin])
        if width == 4:
            words = bit[begin:end]
            if len(words) == end - begin and len(words) % 4 == 0 and _SYNC in words[:1024]:
                return np.frombuffer(words, ">u4").astype("<u4").tobytes()
            break
        at = end
    raise ValueError("this is not a bitstream as Vivado writes it")


def load(linux: Linux, build: Path) -> None:
    """Configure the FPGA.

    Parameters
    ----------
    linux : where the files of Linux lie.
    build : folder of a build, with one .bit and one .dts.

    Raises
    ------
    RuntimeError
        If a tool or a part of the kernel is missing, or the kernel does not take it.
    ValueError
        If a file of the build is missing or no bitstream.
    """
    bits, sources = sorted(build.glob("*.bit")), sorted(build.glob("*.dts"))
    if len(bits) != 1 or len(sources) != 1:
        raise ValueError(f"{build} has {len(bits)} bitstreams and {len(sources)} overlays, must have one of each")
    contents = firmware(bits[0].read_bytes())
    overlays = linux.path(_OVERLAYS)
    if not overlays.is_dir():
        raise MissingError(
            "the kernel takes no overlays",
            "boot a kernel with OF_CONFIGFS, or sudo mount -t configfs none /sys/kernel/config",
        )
    compiled = _compile(sources[0])
    try:
        folder = linux.path("/lib/firmware")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"fractrain_{bits[0].stem}.bin").write_bytes(contents)
        ours = overlays / "fractrain"
        if ours.is_dir():
            ours.rmdir()  # which takes the overlay back
        ours.mkdir()
        (ours / "dtbo").write_bytes(compiled)
    except PermissionError as error:
        raise MissingError(
            f"this user may not write {error.filename}", f"sudo python3 -m host.zynq.load {build}"
        ) from None
    state = linux.read(_STATE)
    if state != "operating":
        raise MissingError(f"the kernel did not take the bitstream (state {state!r})", "dmesg | tail says why")


def _compile(source: Path) -> bytes:
    """The overlay as the kernel takes it."""
    command = ["dtc", "-q", "-@", "-I", "dts", "-O", "dtb", str(source)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        raise MissingError("dtc is not installed", "sudo apt install device-tree-compiler") from None
    if done.returncode:
        raise RuntimeError(f"dtc does not take {source}: {done.stderr.decode().strip()}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m host.zynq.load", description="Configure the FPGA of a Zynq.")
    parser.add_argument("build", type=Path, help="folder of a build")
    try:
        load(Linux(), parser.parse_args(arguments).build)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
