"""Probes: rows on which an exported model has to score as the fitted pipeline does, however unlikely they are."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from bentos.runtime.scoring.categories import Raw
from bentos.runtime.scoring.manifest import Feature

EXTREMES = (1e300, -1e300, 1e30, -1e30, 1e10, -1e10, 5e-324, -5e-324, 2.2e-308, 0.0, -0.0)
NEVER_SEEN = ("", " ", "never seen", "\x00", "ß" * 100, "nan", "None", "null")
MAX_SPLITS = 200  # of a feature


def probe(fitted: Pipeline, features: tuple[Feature, ...], x: Raw, seed: int) -> Raw:
    """Raw rows `x` [n, k] and what they may turn into: with gaps, with categories never seen, with extreme values,
    and with each number at the trees' split points and next to them."""
    rng = np.random.default_rng(seed)
    parts = [with_gaps(x, seed), *extremes(x, features, rng), *at_splits(fitted, features, x, rng)]
    return np.vstack(parts)


def with_gaps(x: Raw, seed: int, share: float = 0.1) -> Raw:
    """`x` with a share of its values made missing, a row of nothing, and rows of the columns' extremes."""
    rng = np.random.default_rng(seed)
    texts = _texts(x)
    gap = np.array([None if text else np.nan for text in texts], dtype=x.dtype)
    holes = np.where(rng.random(x.shape) < share, gap, x)
    numbers = np.where(texts, np.nan, x).astype(np.float64)
    with warnings.catch_warnings():  # of a column without any value: its extremes are missing too
        warnings.filterwarnings("ignore", message="All-NaN slice")
        low, high = np.nanmin(numbers, axis=0), np.nanmax(numbers, axis=0)
    ends = np.array([low, high, high * 1_000.0, -np.abs(high)])
    return np.vstack([x, holes, gap, np.where(texts, gap, ends.astype(x.dtype))])


def _texts(x: Raw) -> NDArray[np.bool_]:
    """Which columns hold texts or nothing but None."""
    if x.dtype != object:
        return np.zeros(x.shape[1], dtype=bool)
    return np.array([any(value is None or isinstance(value, str) for value in column) for column in x.T], dtype=bool)


def extremes(x: Raw, features: tuple[Feature, ...], rng: np.random.Generator) -> Iterator[Raw]:
    """Rows of `x` with one value each that is missing, extreme, a category or no known category."""
    for j, feature in enumerate(features):
        values: list[Any] = [*feature.categories, *NEVER_SEEN, None] if feature.categories else [np.nan, *EXTREMES]
        yield _with(x, j, values, rng)


def at_splits(fitted: Pipeline, features: tuple[Feature, ...], x: Raw, rng: np.random.Generator) -> Iterator[Raw]:
    """Rows of `x` with one number each at a split point of the trees, just below it and just above."""
    numbers = [j for j, feature in enumerate(features) if not feature.categories]
    for z, thresholds in split_points(fitted["model"]).items():
        if z < len(numbers):
            chosen = rng.permutation(thresholds)[:MAX_SPLITS]
            yield _with(x, numbers[z], _raw(features[numbers[z]], chosen), rng)


def _with(x: Raw, j: int, values: Any, rng: np.random.Generator) -> Raw:
    rows = x[rng.integers(0, len(x), len(values))].copy()
    rows[:, j] = values
    return rows


def _raw(feature: Feature, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The raw values that a model's inputs come from, with their neighbours in float64 and in float32."""
    near32 = [np.nextafter(z.astype(np.float32), np.float32(end)).astype(np.float64) for end in (-np.inf, np.inf)]
    values = np.concatenate([z, *near32]) * feature.scale + feature.mean
    values = np.expm1(values) if feature.log else values
    return np.concatenate([values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf)])


def split_points(model: Any) -> dict[int, NDArray[np.float64]]:
    """The thresholds of a fitted tree ensemble by the position of the input; none of any other model."""
    found: dict[int, list[float]] = {}
    for feature, threshold in _splits(model):
        found.setdefault(int(feature), []).append(float(threshold))
    return {feature: np.unique(thresholds) for feature, thresholds in found.items()}


def _splits(model: Any) -> Iterator[tuple[int, float]]:
    for tree in getattr(model, "estimators_", ()):
        inner = tree.tree_.children_left >= 0
        yield from zip(tree.tree_.feature[inner], tree.tree_.threshold[inner], strict=True)
    for stage in getattr(model, "_predictors", ()):
        for predictor in stage:
            nodes = predictor.nodes[predictor.nodes["is_leaf"] == 0]
            yield from zip(nodes["feature_idx"], nodes["num_threshold"], strict=True)
