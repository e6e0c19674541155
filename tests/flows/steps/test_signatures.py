"""Signatures: what the world does is none, what a mistake does is named with its column."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.monitoring import signatures
from flows.steps.monitoring import windows
from tests.flows.steps import scenarios

Change = Callable[[pd.DataFrame], pd.DataFrame]


def found(change: Change, seed: int = 0, rows: int = 2_000) -> list[tuple[str, str]]:
    """Name and column of each signature of a changed window."""
    rng = np.random.default_rng(seed)
    then = scenarios.sketches.reference(scenarios.world(rng, 4_000))
    now = windows.count(change(scenarios.world(rng, rows)), then)
    listed = signatures.find(then, now.sketches, now.copies, scenarios.RULES)
    return [(signature.name, signature.column) for signature in listed]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.assign(amount=x["amount"] * 3),  # growth
        lambda x: x.assign(amount=x["amount"] ** 2),  # ten times the upper end, of another shape
        lambda x: x.assign(mood=x["mood"] - 4),  # below zero, where hardly any value was
        lambda x: x.assign(strength=-x["strength"]),
        lambda x: x.assign(country=x["country"].where(x.index % 5 > 0, "PT")),
        lambda x: x.assign(visits=x["visits"] + (x.index % 2)),
    ],
)
def test_what_the_world_does_is_no_signature(change: Change) -> None:
    """Growth, a moved mean, another shape and a new category are drift, and nobody's mistake."""
    assert found(change) == []


@pytest.mark.parametrize(
    ("change", "name", "column"),
    [
        (lambda x: x.assign(amount=x["amount"] * 1_000), "scale", "amount"),
        (lambda x: x.assign(amount=x["amount"] / 100), "scale", "amount"),
        (lambda x: x.assign(amount=np.minimum(x["amount"] * 100, 5_000)), "scale", "amount"),  # what is above is capped
        (lambda x: x.assign(amount=x["amount"] * 100)[x["amount"] < 50].reset_index(), "scale", "amount"),  # … refused
        (lambda x: x.assign(strength=x["strength"] * 10), "scale", "strength"),  # symmetric: its upper end tells
        (lambda x: x.assign(mood=x["mood"].map(lambda v: f"{v:.1f} of 10")), "type", "mood"),
        (lambda x: x.assign(flag=0.0), "constant", "flag"),
        (lambda x: x.assign(country="GB"), "constant", "country"),
        (lambda x: x.assign(country=x["country"].str.lower()), "encoding", "country"),
        (lambda x: x.assign(age_hours=-x["age_hours"]), "sign", "age_hours"),
        (lambda x: x.assign(visits=np.where(x.index % 8 > 0, x["visits"], np.nan)), "nulls", "visits"),
    ],
)
def test_what_a_mistake_does_is_named(change: Change, name: str, column: str) -> None:
    """Each has its signature, in its column and in no other."""
    assert found(change) == [(name, column)]


def test_prices_with_zeros_and_an_outlier_are_another_unit_too() -> None:
    """A few usual prices, some zeros and one huge amount: the factor is found by shape, not by any single value."""
    rng = np.random.default_rng(1)

    def prices(n: int) -> pd.DataFrame:
        usual = rng.choice([11.77, 12.37, 14.37, 14.96, 28.13], n) * rng.choice([1, 1, 2, 3], n) + rng.exponential(3, n)
        return pd.DataFrame({"price": np.where(rng.random(n) < 0.1, 0.0, usual)})

    then = scenarios.sketches.reference(pd.concat([prices(4_000), pd.DataFrame({"price": [1_119.68]})]))
    now = windows.count(prices(700) * 100, then)
    assert [s.name for s in signatures.find(then, now.sketches, (), scenarios.RULES)] == ["scale"]


def test_few_rows_have_no_signature() -> None:
    """Below the least number of rows nothing is said, however broken."""
    assert found(lambda x: x.assign(amount=x["amount"] * 100), rows=300) == []


def test_two_swapped_columns_are_named_once() -> None:
    """The pair is found, with both names in the sentence."""
    assert found(lambda x: x.assign(amount=x["mood"], mood=x["amount"])) == [("swapped", "mood")]
