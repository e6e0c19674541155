"""Simulated scores, labels and windows whose relation of inputs and label stays: what an estimate's coverage is of."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from flows.steps.monitoring import estimates, transfer
from flows.steps.monitoring.transfer import Cohort

SIZES = (500, 5_000, 50_000)
HELD_OUT, TRAINED, COHORTS = 6_000, 4_000, 3  # rows of the held-out cohort, and of each of the training's
MIN_CLASS_ROWS = 5  # with fewer of a class in the window a ROC AUC is nobody's figure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Rows with true log odds around `centre`, and a model that answers `bend` of them with noise.

    An entity has `rows` rows, and an effect of its own of that deviation that no score knows of.
    """

    name: str
    centre: float = -1.0
    spread: float = 1.5
    threshold: float = 0.5
    over: float = 1.0  # how far scores above 0 log odds are stretched, and below it
    under: float = 1.0
    noise: float = 0.0
    steps: int = 0  # so many different scores, 0 for any number
    rows: int = 1
    effect: float = 0.0

    def draw(self, rng: np.random.Generator, n: int, moved: float = 0.0, wider: float = 1.0) -> Cohort:
        """Labelled rows; `moved` (log odds) and `wider` (a factor) shift the inputs, never what they mean."""
        seen = rng.normal(self.centre + moved, self.spread * wider, n)
        entities = rng.permutation(np.arange(n) // self.rows)
        hidden = rng.normal(0, self.effect, n)[entities] if self.effect else 0.0
        answer = np.where(seen > 0, self.over, self.under) * seen
        score = expit(np.round(answer * self.steps / 8) * 8 / self.steps if self.steps else answer)
        labels = (rng.random(n) < expit(seen + self.noise * np.sin(2 * seen) + hidden)).astype(np.int64)
        return Cohort(labels, score, entities)


WORLDS = (
    World("calibrated"),
    World("overconfident", over=2.5, under=2.5),
    World("overconfident above only", over=3.0, under=0.7),
    World("bent", noise=0.8),
    World("rare", centre=-4.5, spread=1.6, threshold=0.1),
    World("frequent", centre=3.0, spread=1.2, threshold=0.8),
    World("few scores", steps=12),
    World("rows of one entity", rows=5, effect=1.0),
)


def windows(world: World, seeds: Iterable[int], sizes: tuple[int, ...] = SIZES) -> pd.DataFrame:
    """One row per window and metric: size, error (measured less estimated), interval's width, inside or not."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng([seed, WORLDS.index(world)])
        earlier = [world.draw(rng, TRAINED, rng.uniform(-0.4, 0.4), rng.uniform(0.9, 1.1)) for _ in range(COHORTS)]
        held_out = world.draw(rng, HELD_OUT)
        made = estimates.recalibrate(held_out.labels, held_out.scores, world.threshold, held_out.entities)
        assert made is not None
        quality = transfer.widened(made, [*earlier, held_out])
        for size in sizes:
            now = world.draw(rng, size, rng.uniform(-0.8, 0.8), rng.uniform(0.7, 1.3))
            if min(now.labels.sum(), (1 - now.labels).sum()) < MIN_CLASS_ROWS:
                continue
            truth = estimates.measured(now.labels, now.scores, world.threshold)
            for metric, e in estimates.estimate(quality, estimates.count(now.scores), repeats=world.rows).items():
                inside = e["low"] <= truth[metric] <= e["high"]
                found.append((world.name, size, metric, truth[metric] - e["value"], e["high"] - e["low"], inside))
    return pd.DataFrame(found, columns=["world", "rows", "metric", "error", "width", "inside"])


def coverage(seeds: Iterable[int]) -> pd.DataFrame:
    """Over the windows of every world, by size and metric: `inside`, mean `width`, and it by that of the errors.

    `excess` is the mean width over that of an interval of 95 % that knew the errors' deviation.
    """
    chosen = list(seeds)
    every = pd.concat([windows(world, chosen) for world in WORLDS], ignore_index=True)
    grouped = every.assign(square=every["error"] ** 2).groupby(["rows", "metric", "world"])
    found = grouped.agg(
        windows=("inside", "size"), inside=("inside", "mean"), width=("width", "mean"), square=("square", "mean")
    )
    return found.assign(excess=found["width"] / (2 * 1.96 * np.sqrt(found["square"])))
