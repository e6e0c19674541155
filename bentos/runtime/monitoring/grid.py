"""The grid: fixed cells over all numbers, finer near zero, so that counts of any two columns can be laid side by side.

A cell holds the finite floats that share sign, exponent and the first `BITS` bits of the mantissa: 8 cells an octave,
6 to 12 % wide, as in HdrHistogram (Tene 2012) and DDSketch (Masson, Rim & Lee, VLDB 2019). Its index is a shift of the
float's bits, rising with the value; its borders are exact floats; counts of parts add up to those of the whole.
"""

import numpy as np
from numpy.typing import NDArray

BITS = 3
SHIFT = 52 - BITS
HALF = 1 << (63 - SHIFT)  # indices of non-negative numbers start here
FINITE = 0x7FF << BITS  # cells of non-negative finite numbers

Floats = NDArray[np.float64]
Cells = tuple[tuple[int, int], ...]  # index and count of every cell that is not empty, by index


def count(values: Floats) -> Cells:
    """Cells of finite values [n], rising."""
    bits = np.ascontiguousarray(values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    raw = (bits >> np.uint64(SHIFT)).astype(np.int64)
    tally = np.bincount(raw, minlength=2 * HALF)
    used = np.flatnonzero(tally)
    index = np.where(used >= HALF, 2 * HALF - 1 - used, used + HALF)
    order = np.argsort(index)
    return tuple(zip(index[order].tolist(), tally[used][order].tolist(), strict=True))


def add(a: Cells, b: Cells) -> Cells:
    """Cells of the values of both."""
    if not a or not b:
        return a or b
    total = dict(a)
    for index, rows in b:
        total[index] = total.get(index, 0) + rows
    return tuple(sorted(total.items()))


def borders(cells: Cells) -> tuple[Floats, Floats]:
    """Lower and upper border [k] of each cell; a border between two cells is the same float in both."""
    index = np.array([i for i, _ in cells], dtype=np.int64)
    return _border(index), _border(index + 1)


def _border(index: NDArray[np.int64]) -> Floats:
    """The least value at or above cell `index`, of negative cells the one just beyond their neighbour's largest."""
    positive = index >= HALF
    magnitude = np.where(positive, index - HALF, HALF - index)
    bits = np.minimum(magnitude, FINITE).astype(np.uint64) << np.uint64(SHIFT)
    size = np.minimum(bits.view(np.float64), np.finfo(np.float64).max)
    return np.where(positive, size, -size)


def below(cells: Cells, knots: Floats) -> Floats:
    """How many values lie below each knot [k], rising; exact at borders, linear inside a cell."""
    low, high = borders(cells)
    rows = np.array([n for _, n in cells], dtype=np.float64)
    after = np.cumsum(rows)
    x = np.stack([low, high], axis=1).ravel()
    y = np.stack([after - rows, after], axis=1).ravel()
    return np.interp(knots, x, y, left=0.0, right=float(after[-1]))
