"""How good scores of 0/1 labels are: overall, per slice, per threshold and per column."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bentos.runtime.scoring.categories import Raw
from flows.steps.training.resampling import MEASURES, Floats, Interval, bootstrap, checked, paired_gain, tally
from flows.usecases.spec import Slice

__all__ = [
    "MIN_CLASS_ROWS",
    "Importance",
    "Interval",
    "best_threshold",
    "bootstrap",
    "classification",
    "column_auc",
    "paired_gain",
    "permutation_importance",
    "slice_masks",
    "slice_table",
]

# With fewer rows of a class than this, an AUC rests on where a handful of rows happen to rank.
MIN_CLASS_ROWS = 10


@dataclass(frozen=True)
class Importance:
    """Drop of ROC AUC when one column is shuffled: mean and standard deviation over the repeats."""

    name: str
    drop: float
    sd: float


def classification(y: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, float]:
    """Every metric of n scores against n labels; a row is answered with 1 when its score >= threshold.

    Shares and scores are 0 to 1, `log_loss` is in nats, `trivial_accuracy` answers the majority class to everybody.
    Raises ValueError for no rows, one class, a label other than 0 or 1, or a score that is NaN or outside 0..1.
    """
    counts = tally(y, scores, threshold)
    labels, values = checked(y, scores)
    base = float(labels.mean())
    clipped = np.clip(values, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    return {name: measure(counts) for name, measure in MEASURES.items()} | {
        "log_loss": float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped)))),
        "trivial_accuracy": max(base, 1 - base),
        "positive_rate": float(np.mean(values >= threshold)),
        "base_rate": base,
        "rows": float(len(labels)),
    }


def best_threshold(y: ArrayLike, scores: ArrayLike, goal: Literal["accuracy", "f1"] = "accuracy") -> float:
    """The threshold with the best accuracy or F1: midway between neighbouring scores, so that rounding is harmless.

    Of equally good thresholds the one nearest 0.5 is taken. Never 0 or 1; a constant score gives 0.5.
    """
    if goal not in ("accuracy", "f1"):
        raise ValueError(f"no goal '{goal}'; known: accuracy, f1")
    t = tally(y, scores)
    if len(t.scores) == 1:
        return 0.5
    borders = np.concatenate([[0.0], t.scores, [1.0]])
    middle = (borders[:-1] + borders[1:]) / 2
    middle = np.where(middle <= borders[:-1], borders[1:], middle)
    hits = t.positives.sum() - np.concatenate([[0.0], np.cumsum(t.positives)])
    false = t.negatives.sum() - np.concatenate([[0.0], np.cumsum(t.negatives)])
    quality = hits - false if goal == "accuracy" else 2 * hits / (t.positives.sum() + hits + false)
    usable = (middle > 0) & (middle < 1)
    usable[0] &= t.scores[0] > 0
    usable[-1] &= t.scores[-1] < 1
    middle, quality = middle[usable], quality[usable]
    best = middle[quality == quality.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def column_auc(y: ArrayLike, column: ArrayLike) -> float:
    """How well one raw column alone tells the label: 0.5 + |ROC AUC - 0.5|, either direction.

    Missing values are ranked first and last, and the larger result counts: being missing can be the leak. Categories
    are ranked by their share of 1 among the other half of the rows, so that rare ones do not tell their own labels.
    """
    values = np.asarray(column)
    values = _category_shares(np.asarray(y), values) if values.dtype == object else values.astype(np.float64)
    found = []
    for stand_in in (-np.inf, np.inf):
        position = np.unique(np.where(np.isnan(values), stand_in, values), return_inverse=True)[1]
        auc = MEASURES["roc_auc"](tally(y, position / max(int(position.max(initial=0)), 1)))
        found.append(0.5 + abs(auc - 0.5))
    return max(found)


def _category_shares(y: NDArray[Any], column: NDArray[Any]) -> Floats:
    """For each row the share of 1 that its category (missing being one) has among the rows of the other half."""
    codes = np.unique(["" if value is None else f" {value}" for value in column], return_inverse=True)[1]
    half = np.random.default_rng(len(y)).permutation(len(y)) % 2
    shares = np.empty(len(y))
    for part in (0, 1):
        others, size = half != part, int(codes.max(initial=0)) + 1
        rows = np.bincount(codes[others], minlength=size)
        ones = np.bincount(codes[others], weights=y[others], minlength=size)
        base = float(y[others].mean()) if others.any() else 0.0
        shares[half == part] = np.where(rows > 0, ones / np.maximum(rows, 1), base)[codes[half == part]]
    return shares


def slice_masks(x: Raw, names: tuple[str, ...], slices: tuple[Slice, ...]) -> dict[str, NDArray[np.bool_]]:
    """One mask [n] per declared bin or value of raw features [n, k], named like "total_purchases [1, 2)", "country DE".

    The last bin is open-ended. Rows without a value form a slice of their own, "total_purchases missing". Raises
    ValueError for a feature that is not among the names, edges that do not rise, or edges of a categorical feature.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for group in slices:
        if group.feature not in names:
            raise ValueError(f"slice of unknown feature '{group.feature}'; known: {', '.join(names)}")
        column = x[:, names.index(group.feature)]
        if group.values:
            masks |= _value_masks(group, column)
            continue
        if not group.edges or any(a >= b for a, b in zip(group.edges, group.edges[1:], strict=False)):
            raise ValueError(f"edges {group.edges} of the slices of '{group.feature}'; give at least one, rising")
        if any(isinstance(value, str) for value in column):
            raise ValueError(f"edges {group.edges} of the categorical feature '{group.feature}'; give values")
        column = column.astype(np.float64)
        for low, high in zip(group.edges, (*group.edges[1:], np.inf), strict=True):
            top = column >= low if np.isinf(high) else (column >= low) & (column < high)
            masks[f"{group.feature} [{low:g}, {high:g})"] = top
        if np.isnan(column).any():
            masks[f"{group.feature} missing"] = np.isnan(column)
    return masks


def _value_masks(group: Slice, column: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    if group.edges:
        raise ValueError(f"edges {group.edges} and values of the slices of '{group.feature}'; give one of them")
    masks = {f"{group.feature} {value}": np.asarray(column == value, dtype=bool) for value in group.values}
    missing = np.array([value is None or value != value for value in column], dtype=bool)
    return masks | ({f"{group.feature} missing": missing} if missing.any() else {})


def slice_table(
    y: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    slices: Mapping[str, NDArray[np.bool_]],
    champion_scores: ArrayLike | None = None,
    *,
    min_rows: int = 200,
    n: int = 500,
    confidence: float = 0.95,
    seed: int = 7,
    groups: ArrayLike | None = None,
) -> list[dict[str, Any]]:
    """One row per slice: rows, base rate, brier, ROC AUC with an interval, precision, recall, positive rate.

    `judged` says whether the slice has `min_rows` rows. ROC AUC, its bounds and the `loss` of it against the champion
    are None where a class has fewer than 10 rows; precision and recall where no row is answered with 1 or is 1.
    """
    labels, values = checked(y, scores)
    champion = None if champion_scores is None else checked(y, champion_scores)[1]
    entity = None if groups is None else np.asarray(groups)
    table = []
    for name, mask in slices.items():
        if mask.shape != labels.shape:
            raise ValueError(f"mask of slice '{name}' has shape {mask.shape}; {labels.shape} rows were scored")
        row = _slice_row(labels[mask], values[mask], threshold) | {"judged": int(mask.sum()) >= min_rows}
        if min(labels[mask].sum(), (1 - labels[mask]).sum()) >= MIN_CLASS_ROWS:
            within = None if entity is None else entity[mask]
            auc = bootstrap(
                labels[mask],
                values[mask],
                threshold,
                metrics=("roc_auc",),
                n=n,
                confidence=confidence,
                seed=seed,
                groups=within,
            )["roc_auc"]
            row |= {"roc_auc": auc.value, "roc_auc_low": auc.low, "roc_auc_high": auc.high}
            if champion is not None:
                loss = paired_gain(
                    labels[mask],
                    champion[mask],
                    values[mask],
                    metric="roc_auc",
                    n=n,
                    confidence=confidence,
                    seed=seed,
                    groups=within,
                )
                row |= {"loss": loss.value, "loss_low": loss.low, "loss_high": loss.high}
        table.append({"slice": name} | row)
    return table


def _slice_row(y: NDArray[np.int64], scores: Floats, threshold: float) -> dict[str, Any]:
    answered = scores >= threshold
    hits = int(y[answered].sum())
    return {
        "rows": len(y),
        "base_rate": float(y.mean()) if len(y) else None,
        "brier": float(np.mean((scores - y) ** 2)) if len(y) else None,
        "precision": hits / int(answered.sum()) if answered.any() else None,
        "recall": hits / int(y.sum()) if y.any() else None,
        "positive_rate": float(answered.mean()) if len(y) else None,
        **dict.fromkeys(("roc_auc", "roc_auc_low", "roc_auc_high", "loss", "loss_low", "loss_high")),
    }


def permutation_importance(
    score_fn: Callable[[Raw], Floats],
    x: Raw,
    y: ArrayLike,
    names: tuple[str, ...],
    *,
    repeats: int = 5,
    seed: int = 7,
    max_rows: int = 5_000,
) -> list[Importance]:
    """How much ROC AUC falls when a column of raw values [n, k] is shuffled, largest first (Breiman 2001).

    `score_fn` takes raw values [n, k] and returns scores [n]. At most `max_rows` random rows are used. Columns that say
    the same share the importance.
    """
    if x.ndim != 2 or x.shape[1] != len(names):
        raise ValueError(f"features have shape {x.shape} for {len(names)} names; give one column per name")
    rng = np.random.default_rng(seed)
    labels = np.asarray(y)
    kept = rng.permutation(len(labels))[:max_rows]
    x, labels = x[kept], labels[kept]
    whole = MEASURES["roc_auc"](tally(labels, score_fn(x)))
    found = []
    for i, name in enumerate(names):
        drops = []
        for _ in range(repeats):
            shuffled = x.copy()
            shuffled[:, i] = rng.permutation(x[:, i])
            drops.append(whole - MEASURES["roc_auc"](tally(labels, score_fn(shuffled))))
        found.append(Importance(name, float(np.mean(drops)), float(np.std(drops))))
    return sorted(found, key=lambda item: (-item.drop, item.name))
