"""Quantile sketches without coin tosses: equal values, however they were cut into parts, give equal bytes.

The layout is that of a KLL sketch (Karnin, Lang & Liberty 2016) in the DataSketches binary format, doubles, version 1:
that of today, or as whylogs 1.6 froze it. What is kept of the values is chosen by rank instead of at random.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KLL_K = 1024  # whylogs' own
SINGLE = 4  # flag of a sketch of one value
HEAD = "<BBBBHBBQHBB"
WHYLOGS, DATASKETCHES = 6, 5  # integers of 4 bytes before the levels: whylogs leaves one unused

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kept:
    """Values [k] that stand for `weights` [k] values each, and the least and the largest of all of them."""

    values: Floats
    weights: NDArray[np.int64]
    low: float
    high: float

    def below(self, edges: Floats) -> NDArray[np.int64]:
        """How many values lie below each of the edges [k]."""
        order = np.argsort(self.values, kind="stable")
        upto = np.concatenate([[0], np.cumsum(self.weights[order])])
        found: NDArray[np.int64] = upto[np.searchsorted(self.values[order], edges, side="left")]
        return found

    def quantiles(self, shares: Floats) -> Floats:
        """The least values that at least those shares 0..1 [k] of all values do not exceed."""
        order = np.argsort(self.values, kind="stable")
        upto = np.cumsum(self.weights[order])
        found: Floats = self.values[order][np.searchsorted(upto, shares * upto[-1], side="left")]
        return found


def kept(values: Floats) -> Kept | None:
    """All values [n], each standing for itself; None for none."""
    if not values.size:
        return None
    return Kept(values, np.ones(values.size, dtype=np.int64), float(values.min()) + 0.0, float(values.max()) + 0.0)


def union(parts: Iterable[Kept | None]) -> Kept | None:
    """What the parts keep, side by side; their order does not matter to `encode`."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    values, weights = (np.concatenate([getattr(part, name) for part in there]) for name in ("values", "weights"))
    return Kept(values, weights, min(part.low for part in there), max(part.high for part in there))


def encode(sketch: Kept, *, preamble: int = WHYLOGS) -> bytes:
    """The bytes of a sketch that stands for n values; at least two.

    In the order of their ranks they are cut into blocks of 2^h and, for the rest, of each smaller power of two that n
    contains; a block is represented by the value in its middle, on the level of its size. That moves a rank by at most
    `2^(h-1) / n < 0.1 %`, once for the values and once for every merge. Up to `KLL_K` values all are kept.
    """
    n = int(sketch.weights.sum())
    height = max(0, (n - 1).bit_length() - KLL_K.bit_length() + 1)
    per_level = [(n >> level) & 1 for level in range(height)] + [n >> height]
    blocks = np.repeat([1 << level for level in range(height + 1)], per_level)
    items = _at(sketch, np.cumsum(blocks) - blocks + blocks // 2)
    capacity = sum(_capacity(height - level) for level in range(height + 1))
    levels = capacity - items.size + np.cumsum([0, *per_level[:-1]])
    head = struct.pack(HEAD, preamble, 1, 15, 2, KLL_K, 8, 0, n, KLL_K, height + 1, 0).ljust(4 * preamble, b"\0")
    body = struct.pack(f"<{height + 1}I2d", *levels.tolist(), sketch.low, sketch.high)
    return head + body + bytes(items.astype("<f8").tobytes())


def _at(sketch: Kept, ranks: NDArray[np.int64]) -> Floats:
    """The values at these ranks, counted from 0, of all that the sketch stands for; zeros without a sign."""
    values = sketch.values + 0.0
    if sketch.weights.size == sketch.weights.sum():  # a value at each rank: no need to know where it came from
        return np.sort(values)[ranks]
    order = np.argsort(values, kind="stable")
    found: Floats = values[order][np.searchsorted(np.cumsum(sketch.weights[order]), ranks, side="right")]
    return found


def decode(data: bytes) -> Kept:
    """What a sketch of at least one value keeps, from its bytes in this format, whoever wrote them."""
    if data[3] & SINGLE:
        return Kept(np.array(struct.unpack_from("<d", data, 8)), np.ones(1, dtype=np.int64), *[_double(data, 8)] * 2)
    height, head = data[18], 4 * data[0]
    levels = np.array(struct.unpack_from(f"<{height}I", data, head))
    at = head + 4 * height
    values = np.frombuffer(data, dtype="<f8", offset=at + 16).astype(np.float64)
    sizes = np.diff([*levels - levels[0], values.size])
    weights = np.repeat(np.int64(1) << np.arange(height), sizes)
    return Kept(values, weights, _double(data, at), _double(data, at + 8))


def _double(data: bytes, at: int) -> float:
    value: float = struct.unpack_from("<d", data, at)[0]
    return value


def _capacity(depth: int) -> int:
    """Items that the library allots to a level `depth` below the top one: `KLL_K (2/3)^depth`, rounded, at least 8."""
    doubled: int = (2 * KLL_K << depth) // 3**depth
    return max(8, (doubled + 1) >> 1)
