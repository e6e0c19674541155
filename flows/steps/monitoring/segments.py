"""Segments: the scores of a table apart for each slice that the use case declares, and how far each has moved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bentos.runtime.monitoring import distances
from flows.steps.monitoring.quantiles import Floats, Kept
from flows.steps.monitoring.windows import SCORE
from flows.steps.training.metrics import slice_masks
from flows.usecases.spec import Slice

PREFIX = f"{SCORE} in "
DECILES = np.linspace(0, 1, 11)[1:-1]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A slice's rows in a window, its share of all rows then and now, the median score of both, and their PSI."""

    name: str
    rows: int
    share: tuple[float, float]
    median: tuple[float, float]
    psi: float


def apart(frame: pd.DataFrame, slices: Sequence[Slice]) -> pd.DataFrame:
    """The frame [rows] with a further column of scores per slice of its features, missing outside of the slice."""
    names = tuple(str(name) for name in frame if name != SCORE)
    known = tuple(group for group in slices if group.feature in names)
    masks = slice_masks(frame[list(names)].to_numpy(dtype=object), names, known)
    return frame.assign(**{f"{PREFIX}{name}": frame[SCORE].where(mask) for name, mask in masks.items()})


def compare(then: Mapping[str, Kept | None], now: Mapping[str, Kept | None]) -> tuple[Segment, ...]:
    """Each segment that has scores in the reference and in the window, from what their profiles keep of columns."""
    whole = [side.get(SCORE) for side in (then, now)]
    if whole[0] is None or whole[1] is None:
        return ()
    totals = [_total(side) for side in whole if side is not None]
    found = []
    for name in sorted(then):
        a, b = then[name], now.get(name)
        if name.startswith(PREFIX) and a is not None and b is not None:
            edges = np.unique(a.quantiles(DECILES))
            found.append(
                Segment(
                    name=name.removeprefix(PREFIX),
                    rows=_total(b),
                    share=(_total(a) / totals[0], _total(b) / totals[1]),
                    median=(_median(a), _median(b)),
                    psi=float(distances.psi(_counts(a, edges), _counts(b, edges))),
                )
            )
    return tuple(found)


def _total(kept: Kept) -> int:
    return int(kept.weights.sum())


def _median(kept: Kept) -> float:
    return float(kept.quantiles(np.array([0.5]))[0])


def _counts(kept: Kept, edges: Floats) -> Floats:
    return np.diff([0, *kept.below(edges), _total(kept)]).astype(np.float64)
