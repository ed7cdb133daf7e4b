"""A pass of the device step as a descriptor of the vector unit, its coefficients and its sums as bytes."""

from __future__ import annotations

import numpy as np

from host.step.engine import Sums, Tensor, VectorPass
from host.step.places import Place, blocks
from host.step.rules import Statistics
from rtl.config import WORD_CHANNELS
from rtl.isa import Descriptor, Opcode, Pass, Sink, Source
from rtl.vector_block import COEFFICIENTS_BYTES, SUMS_BYTES

_WORD = (1 << 32) - 1


def descriptor(
    asked: VectorPass, coefficients: int, sums: int, codes: Tensor | None, mask: Tensor | None
) -> Descriptor:
    """The pass, with its coefficients and sums at such addresses, its results at `codes`, a ReLU's mask at `mask`."""
    n, channels, height, width = asked.shape
    apart = is_of_samples(asked)
    controls = Pass.SUMS | Pass.EACH_SAMPLE * apart | Pass.SQUARES * (asked.sums is Sums.SQUARES)
    controls |= Pass.RELU * asked.relu | Pass.MASKED * (asked.mask is not None)
    controls |= Pass.STOCHASTIC * (asked.noise is not None)
    u: Place | None = asked.u and asked.u.held
    q: Place | None = codes and codes.held
    source = u.source if u else Source.PLANES
    streams = {
        "u": asked.u,
        "v": asked.v,
        "x": asked.sums if isinstance(asked.sums, Tensor) else None,
        "mask": asked.mask,
        "q": codes,
        "positive": mask,
    }
    fields = {name: value for stream, tensor in streams.items() for name, value in _tensor(stream, tensor).items()}
    return Descriptor(
        opcode=Opcode.VECTOR,
        samples=n,
        k_blocks=blocks(channels),
        height=height,
        width=width,
        vector_coefficients=coefficients,
        vector_coefficients_stride=blocks(channels) * WORD_CHANNELS * COEFFICIENTS_BYTES if apart else 0,
        vector_sums=sums,
        vector_raised=asked.raised,
        vector_top=asked.top,
        vector_shift=asked.k.shift,
        vector_dropped=u.dropped if u else 0,
        vector_source=source,
        vector_sink=q.sink if q else Sink.PLANES,
        vector_controls=controls,
        parts_more=u.parts - 1 if u else 0,
        parts_stride=u.stride_parts if u else 0,
        **_noise(asked),
        **fields,
    )


def _tensor(name: str, tensor: Tensor | None) -> dict[str, int]:
    """The block of a stream, of zeros where there is none."""
    if tensor is None:
        return {}
    place: Place = tensor.held
    planes = tensor.bits if place.source == Source.PLANES else 0
    values = {
        "base": place.address,
        "stride_n": place.stride_n,
        "stride_c": place.stride_c,
        "stride_y": place.stride_y,
        "planes": planes,
        "signed": int(tensor.signed and planes > 0),
    }
    return {f"{name}_{field}": value for field, value in values.items()}


def _noise(asked: VectorPass) -> dict[str, int]:
    """Key and numbers of words, as `host.step.noise` counts them."""
    if asked.noise is None:
        return {}
    _, channels, height, width = asked.shape
    key, block = asked.noise.key, height * width
    sample = blocks(channels) * block
    return {
        "vector_key_low": key[0] | key[1] << 16,
        "vector_key_high": key[2] | key[3] << 16,
        "vector_number": asked.noise.first * sample & _WORD,
        "vector_number_stride_n": sample,
        "vector_number_stride_c": block,
    }


def pack_coefficients(asked: VectorPass) -> np.ndarray:
    """uint8; those of channels that fill the last block are zero."""
    n, channels = asked.shape[:2]
    groups = n if is_of_samples(asked) else 1
    raw = np.zeros((groups, blocks(channels) * WORD_CHANNELS, 2), "<i8")
    halves = raw.view("<i4")
    halves[:, :channels, 0], halves[:, :channels, 1], raw[:, :channels, 1] = asked.k.a, asked.k.c, asked.k.b
    return raw.view(np.uint8).reshape(-1)


def sums_bytes(asked: VectorPass) -> int:
    """Bytes of the sums, and of the number that was clipped."""
    n, channels = asked.shape[:2]
    groups = n if is_of_samples(asked) else 1
    return groups * blocks(channels) * WORD_CHANNELS * SUMS_BYTES + 8


def unpack_sums(raw: np.ndarray, channels: int, each_sample: bool) -> tuple[Statistics, int]:
    """The statistics of so many channels, of each sample or of all, and the results that were clipped."""
    record = np.dtype([("sums", "<i8"), ("products", "<i8"), ("low", "<i4"), ("high", "<i4")])
    found = raw[:-8].view(record).reshape(blocks(channels), -1, WORD_CHANNELS).swapaxes(0, 1)
    each = [found[name].reshape(len(found), -1)[:, :channels].astype(np.int64) for name in Statistics._fields]
    if not each_sample:
        sums, products, low, high = each
        each = [sums.sum(axis=0), products.sum(axis=0), low.min(axis=0), high.max(axis=0)]
    return Statistics(*each), int(raw[-8:].view("<u8")[0])


def is_of_samples(asked: VectorPass) -> bool:
    """Whether every sample has coefficients and sums of its own."""
    return asked.each_sample or any(np.ndim(each) == 2 for each in (asked.k.a, asked.k.c, asked.k.b))
