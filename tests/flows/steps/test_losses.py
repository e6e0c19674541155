"""Estimated error of a numeric target: the interval holds what labels measure, and nothing is made up."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error, mean_squared_error

from bentos.runtime.monitoring import grid
from flows.steps.monitoring import losses

Floats = NDArray[np.float64]
SIZES = (500, 5_000, 50_000)


@dataclass(frozen=True)
class World:
    """A target with a prediction that is off by noise which grows with it, by a bias, and by an entity's own effect."""

    name: str
    centre: float = 0.0
    scale: float = 1.0
    growth: float = 0.0
    tail: float = 0.0  # freedom of Student's t, 0 for a normal error
    bias: float = 0.0
    rows: int = 1
    effect: float = 0.0

    def draw(
        self, rng: np.random.Generator, n: int, moved: float = 0.0, wider: float = 1.0
    ) -> tuple[Floats, Floats, Floats]:
        """Targets, predictions and entities; `moved` and `wider` shift the inputs, never what they mean."""
        x = rng.normal(moved, wider, n)
        entities = rng.permutation(np.arange(n) // self.rows)
        noise = rng.standard_t(self.tail, n) if self.tail else rng.normal(size=n)
        own = rng.normal(0, self.effect, n)[entities] if self.effect else 0.0
        error = np.exp(self.growth * x) * noise + own + self.bias * np.maximum(x, 0)
        return self.centre + self.scale * (x + error), self.centre + self.scale * x, entities


WORLDS = (
    World("even"),
    World("large numbers", centre=1e6, scale=50.0),
    World("growing", growth=0.6),
    World("heavy tails", tail=5.0),
    World("biased", bias=1.0),
    World("rows of one entity", rows=5, effect=1.0),
)


def windows() -> Iterator[tuple[str, int, str, float, float, bool]]:
    """World, rows, metric, error, width and inside, of every window."""
    for world, seed in product(WORLDS, range(12)):
        rng = np.random.default_rng([seed, WORLDS.index(world)])
        made = losses.learn(*world.draw(rng, 5_000))
        assert made is not None
        for rows in SIZES:
            y, x, _ = world.draw(rng, rows, rng.uniform(-0.6, 0.6), rng.uniform(0.8, 1.2))
            truth = losses.measured(y, x)
            for metric, e in losses.estimate(made, losses.count(made, x), repeats=world.rows).items():
                inside = e["low"] <= truth[metric] <= e["high"]
                unit = world.scale ** losses.POWERS[metric]
                yield (
                    world.name,
                    rows,
                    metric,
                    (truth[metric] - e["value"]) / unit,
                    (e["high"] - e["low"]) / unit,
                    inside,
                )


def test_the_interval_holds_what_labels_measure() -> None:
    """Over 216 windows with moved inputs, of three sizes, at least 90 % are inside, and intervals are no barns."""
    found = pd.DataFrame(windows(), columns=["world", "rows", "metric", "error", "width", "inside"])
    worlds = found.assign(square=found["error"] ** 2).groupby(["rows", "metric", "world"]).mean()
    excess = (worlds["width"] / (2 * 1.96 * worlds["square"] ** 0.5)).groupby("rows").mean()
    assert (found.groupby("rows")["inside"].mean() >= 0.9).all(), worlds
    assert (found.groupby("world")["inside"].mean() >= 0.8).all(), worlds
    assert (excess <= 1.5).all(), excess


def test_figures_are_those_of_the_metrics() -> None:
    """What an estimate is held to are the figures that scikit-learn gives, in the target's unit."""
    y, x, _ = WORLDS[1].draw(np.random.default_rng(0), 3_000)
    expected = {"mae": mean_absolute_error(y, x), "mse": mean_squared_error(y, x)}
    assert losses.measured(y, x) == pytest.approx(expected)
    made = losses.learn(y, x)
    assert made is not None
    own = losses.estimate(made, losses.count(made, x))
    assert {name: found["value"] for name, found in own.items()} == pytest.approx(expected, rel=0.02)


def test_a_shift_to_where_errors_are_large_is_seen_and_a_changed_concept_is_not() -> None:
    """Predictions where errors were large are expected to cost more; errors that double at the same ones are not."""
    rng, world = np.random.default_rng(1), WORLDS[2]
    y, x, _ = world.draw(rng, 5_000)
    made = losses.learn(y, x)
    assert made is not None
    own = losses.estimate(made, losses.count(made, x))["mae"]
    moved = losses.estimate(made, losses.count(made, world.draw(rng, 5_000, moved=1.0)[1]))["mae"]
    assert moved["low"] > own["high"]
    assert losses.measured(x + 2 * (y - x), x)["mae"] > own["high"]


def test_beyond_what_was_seen_the_error_stays_as_it_was() -> None:
    """A prediction ten times out of range costs what the farthest one did, not what a curve makes of it."""
    y, x, _ = WORLDS[2].draw(np.random.default_rng(2), 5_000)
    made = losses.learn(y, x)
    assert made is not None
    end, beyond = (losses.estimate(made, losses.count(made, [at])) for at in (x.max(), 10 * x.max()))
    assert end == beyond


def test_counts_of_parts_are_those_of_the_whole() -> None:
    """Predictions are counted in fixed cells, gaps left out, so that parts add up."""
    made = losses.learn(*WORLDS[0].draw(np.random.default_rng(3), 1_000))
    assert made is not None
    x = np.array([-9.0, np.nan, 0.1, 0.1, 9.0])
    assert grid.add(losses.count(made, x[:2]), losses.count(made, x[2:])) == losses.count(made, x)
    assert sum(n for _, n in losses.count(made, x)) == 4


@pytest.mark.parametrize("targets", [[], [1.0, 2.0], [np.nan, 2.0]])
def test_no_error_promises_nothing_and_no_row_is_no_estimate(targets: list[float]) -> None:
    """Where nothing can be known, nothing is made up."""
    assert losses.learn(targets, [1.0, 2.0][: len(targets)]) is None
    made = losses.learn([1.0, 2.0, 3.0], [1.5, 1.5, 1.5])
    assert made is not None
    assert losses.estimate(made, ()) == {}
    assert losses.estimate(made, losses.count(made, [1.5]))["mae"]["value"] == pytest.approx(2.5 / 3, rel=0.3)


def test_losses_survive_json() -> None:
    """What is kept with a release is what was measured, and anything else is refused."""
    made = losses.learn(*WORLDS[3].draw(np.random.default_rng(4), 1_000))
    assert made is not None
    assert losses.from_json(losses.to_json(made)) == made
    for text in ("{}", "[]", '{"curves": 1}'):
        with pytest.raises(ValueError, match="not a release's losses"):
            losses.from_json(text)
