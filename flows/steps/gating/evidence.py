"""What the gates look at, and what each of them answers."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bentos.runtime.scoring.categories import Raw

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the gates look at: scores of the candidate, the champion and a dummy on the same n test rows.

    `y` int64[n] of 0/1, scores float64[n]; `x` raw features [n, k] named `names`; `slices` maps a slice's
    name to a bool mask [n]; `group` holds the sensitive column's values or None. `exported_names` is the
    order of inputs inside the exported artefact. `parity` is the largest absolute difference of exported and fitted
    scores; `latency_us` the median of single-row calls of the exported model, microseconds. `entities` [n] names each
    row's entity when entities occur in several rows, so that resamples draw entities. `left_out` counts rows that were
    neither trained nor tested on because their period is in quarantine.
    """

    y: NDArray[np.int64]
    scores: Floats
    dummy_scores: Floats
    threshold: float
    x: Raw
    names: tuple[str, ...]
    exported_names: tuple[str, ...]
    parity: float
    latency_us: float
    test_age_days: int
    champion_scores: Floats | None = None
    champion_threshold: float | None = None
    slices: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    group: NDArray[np.str_] | None = None
    seed: int = 7
    entities: NDArray[np.generic] | None = None
    left_out: int = 0


@dataclass(frozen=True)
class GateResult:
    """One gate's answer: what it measured, against which limit, and a sentence.

    `value` is None when there is nothing to measure (no champion yet) or nothing could be (the gate raised).
    `on_fail` is what a failure does to the candidate.
    """

    name: str
    passed: bool
    on_fail: Literal["REJECT", "HOLD"]
    value: float | None
    limit: float | None
    reason: str
