"""Error without labels for a numeric target: what predictions cost on labelled rows, expected on those of a window.

The absolute and the squared error are learned on held-out rows as smooth curves of the prediction and applied to the
predictions of a window (direct loss estimation: NannyML, How it works, 2022, with the prediction as the only input).
A curve is a gamma regression with a log link (McCullagh & Nelder 1989, chapter 8) on the spline of `recalibration`:
errors are positive, skewed, and spread in proportion to their mean. Beyond the held-out rows' predictions it stays as
it is at their end. A change of the error itself where predictions are as ever, concept drift, it cannot see.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bentos.runtime.monitoring.grid import Cells
from flows.steps.monitoring import recalibration
from flows.steps.monitoring.estimates import CONFIDENCE, REPLAYS, Estimate, Floats
from flows.steps.monitoring.recalibration import STEPS, Curve

FILE = "losses.json"  # beside the reference in a release's folder
POWERS = {"mae": 1, "mse": 2}
CELLS = 256  # equally wide, from the least to the greatest held-out prediction


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What held-out rows say of a release's errors, by metric (mae, mse): the log of the error over the prediction.

    Predictions lie between `least` and `most`, in the target's unit; `unit` divides errors. `spread` is the variance
    of an error by its squared mean, `dependence` the correlation of the errors of one entity's rows, 0..1.
    """

    least: float
    most: float
    unit: float
    curves: Mapping[str, Curve]
    spread: Mapping[str, float]
    dependence: float = 1.0


def learn(targets: ArrayLike, predictions: ArrayLike, groups: ArrayLike | None = None) -> Losses | None:
    """The losses of predictions [n] of targets [n]; `groups` [n] names each row's entity. None without an error.

    Where no entity has two rows nothing is known of their dependence, and the worst is assumed: equal errors.
    """
    y, x = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    sound = np.isfinite(y) & np.isfinite(x)
    errors, x = np.abs(y[sound] - x[sound]), x[sound]
    if errors.size == 0 or errors.max() == 0:
        return None
    entities = None if groups is None else np.asarray(groups)[sound]
    least, most, unit = float(x.min()), float(x.max()), float(errors.mean())
    place = _place(x, least, most)
    curves, spread, dependence = {}, {}, []
    for name, power in POWERS.items():
        loss = (errors / unit) ** power
        curves[name], ratio = _fit(place, loss, entities)
        spread[name] = float(np.mean(ratio**2))
        dependence.append(None if entities is None else recalibration.correlation(ratio, entities))
    known = [found for found in dependence if found is not None]
    return Losses(
        least=least, most=most, unit=unit, curves=curves, spread=spread, dependence=max(known) if known else 1.0
    )


def count(losses: Losses, predictions: ArrayLike) -> Cells:
    """Predictions [n] counted into the release's cells; those of parts add up. What is not a number is left out."""
    x = np.asarray(predictions, dtype=np.float64)
    place = _place(x[np.isfinite(x)], losses.least, losses.most)
    tally = np.bincount(np.minimum(((place + 1) / 2 * CELLS).astype(np.int64), CELLS - 1), minlength=CELLS)
    used = np.flatnonzero(tally)
    return tuple(zip(used.tolist(), tally[used].tolist(), strict=True))


def estimate(losses: Losses, counted: Cells, *, repeats: float = 1.0, seed: int = 7) -> Estimate:
    """Expected mean absolute and mean squared error of rows with those predictions, each with a 95 % interval.

    The interval is one for what labels measure later on the very rows; `repeats` is how many rows the entity of a row
    has in the window, on average over the rows. {} for no row.
    """
    if not counted:
        return {}
    rng, tail = np.random.default_rng(seed), (1 - CONFIDENCE) / 2
    index, rows = np.array([i for i, _ in counted]), np.array([n for _, n in counted], dtype=np.float64)
    place = (index + 0.5) / CELLS * 2 - 1
    effect = 1 + losses.dependence * (repeats - 1)
    found = {}
    for name, power in POWERS.items():
        curve, scale = losses.curves[name], losses.unit**power / rows.sum()
        columns = recalibration.basis(place, curve.knots)
        expected = np.exp(columns @ np.array(curve.weights))
        weights = rng.multivariate_normal(curve.weights, np.array(curve.covariance), size=REPLAYS)
        spread = losses.spread[name] * effect
        replays = (rng.gamma(rows / spread, 1.0, (REPLAYS, len(rows))) * np.exp(weights @ columns.T)).sum(axis=1)
        low, high = np.quantile(replays * spread * scale, [tail, 1 - tail])
        value = float((rows * expected).sum() * scale)
        found[name] = {"value": value, "low": float(min(low, value)), "high": float(max(high, value))}
    return found


def measured(targets: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """The figures that `estimate` expects, from targets [n] and predictions [n]."""
    errors = np.abs(np.asarray(targets, dtype=np.float64) - np.asarray(predictions, dtype=np.float64))
    return {name: float(np.mean(errors**power)) for name, power in POWERS.items()}


def to_json(losses: Losses) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    return json.dumps(asdict(losses), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Losses:
    """The losses that `to_json` wrote; ValueError if they are none."""
    try:
        raw = json.loads(text)
        return Losses(**{**raw, "curves": {name: recalibration.of(curve) for name, curve in raw["curves"].items()}})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a release's losses: {error!r}") from error


def _place(x: Floats, least: float, most: float) -> Floats:
    """Where predictions [n] lie between the least, -1, and the most, 1."""
    return np.clip((x - least) / (most - least) * 2 - 1, -1.0, 1.0) if most > least else np.zeros_like(x)


def _fit(place: Floats, loss: Floats, groups: NDArray[np.int64] | None) -> tuple[Curve, Floats]:
    """The curve of the log of the loss [n], by Fisher scoring, and each row's loss by its expected one, less 1.

    Full steps converge where a mean is fitted on the log scale; they are bounded, since one error may be far out.
    """
    knots = recalibration.spread(place)
    columns = recalibration.basis(place, knots)
    precision = recalibration.precision(columns.shape[1])
    information = columns.T @ columns + precision
    weights = np.zeros(columns.shape[1])
    for _ in range(STEPS):
        ratio = np.minimum(loss * np.exp(-(columns @ weights)), 1e9) - 1
        step = np.linalg.solve(information, columns.T @ ratio - precision @ weights)
        weights = weights + step * min(1.0, 1.0 / np.abs(columns @ step).max(initial=1e-9))
        if np.abs(step).max() < 1e-9:
            break
    ratio = loss * np.exp(-(columns @ weights)) - 1
    covariance = recalibration.sandwich(columns * ratio[:, None], information, groups)
    return recalibration.curve(knots, weights, covariance), ratio
