"""Request features: model inputs that the caller brings with a row, computed by the same lines offline and online."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000


@dataclass(frozen=True, kw_only=True)
class RequestFeature:
    """One such input with inclusive bounds: a `number` of that name, or the `hour` of day (UTC) of the row's time."""

    name: str
    minimum: float
    maximum: float
    kind: Literal["number", "hour"] = "number"


def numbers(features: Sequence[RequestFeature]) -> tuple[str, ...]:
    """Names of the numbers that a row must bring."""
    return tuple(f.name for f in features if f.kind == "number")


def matrix(
    features: Sequence[RequestFeature], given: Mapping[str, npt.ArrayLike], moments: npt.NDArray[np.int64]
) -> Floats:
    """The inputs float64[n, r] of rows at `moments` (microseconds since 1970, UTC) that bring the numbers `given`."""
    values = np.empty((len(moments), len(features)))
    for j, feature in enumerate(features):
        values[:, j] = (moments % DAY_US) / HOUR_US if feature.kind == "hour" else given[feature.name]
    return values


def outside(features: Sequence[RequestFeature], values: Floats) -> npt.NDArray[np.bool_]:
    """Which of the values [n, r] break their feature's bounds; NaN, a missing one, does not."""
    low, high = (np.array([getattr(f, bound) for f in features]) for bound in ("minimum", "maximum"))
    return np.asarray((values < low) | (values > high), dtype=bool)
