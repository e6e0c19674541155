"""The split of entities between a champion and its canaries."""

import math
from itertools import pairwise

import pytest

from bentos.runtime.rollouts.rollout import Arm, Rollout
from bentos.runtime.rollouts.split import Split, place, split_of

PEOPLE = range(20_000)


def split(*weights: float, salt: str = "s") -> Split:
    """The split of a champion and canaries of those weights, all loaded."""
    names = ["canary", "canary-b", "canary-c", "canary-d"][: len(weights)]
    arms = [Arm(name, f"churn:{name}", w) for name, w in zip(names, weights, strict=True)]
    rollout = Rollout((Arm("champion", "churn:v1", 1 - math.fsum(weights)), *arms), salt)
    return Split(rollout, {"champion", *names})


def arms_of(found: Split) -> list[str]:
    return [found.arm_of(person) for person in PEOPLE]


@pytest.mark.parametrize("weights", [(0.01,), (0.1,), (0.5,), (0.2, 0.3), (0.1, 0.2, 0.3, 0.25), (0.4, 0.6)])
def test_each_arm_has_its_share_of_the_entities(weights):
    """Counts lie within five standard deviations of a binomial draw, for small, large and several canaries."""
    found = arms_of(split(*weights))
    names = ["champion", "canary", "canary-b", "canary-c", "canary-d"]
    for name, share in zip(names, [1 - sum(weights), *weights], strict=False):
        n, bound = len(PEOPLE), 5 * math.sqrt(len(PEOPLE) * max(share * (1 - share), 0.0))
        assert abs(found.count(name) - n * share) <= bound + 1e-6, name


def test_the_ends_are_exact():
    """At 1 the canary has everyone, at 0 nobody, whatever the entity."""
    assert set(arms_of(split(1.0))) == {"canary"}
    assert set(arms_of(split(0.0))) == {"champion"}
    assert split_of(Rollout((Arm("champion", "a", 1.0), Arm("canary", "b", 0.0)), "s"), {"champion", "canary"}) is None


def test_an_entity_keeps_its_arm():
    """Another process, another order and another release of the same arms change nobody's arm; known values hold."""
    found, other = arms_of(split(0.3)), split(0.3)
    assert found == list(reversed([other.arm_of(person) for person in reversed(PEOPLE)]))
    assert [f"{place('s', entity):.6f}" for entity in (0, 17, "anna", 2**63 - 1)] == [
        "0.789588",
        "0.002047",
        "0.778196",
        "0.880292",
    ]


@pytest.mark.parametrize("other", [(), (0.2,)])
def test_a_canary_that_grows_takes_from_the_champion_only(other):
    """Through 1, 10, 50 and 80 % nobody leaves the canary, and beside another canary nobody leaves that one."""
    steps = [arms_of(split(weight, *other)) for weight in (0.01, 0.1, 0.5, 0.8)]
    for before, after in pairwise(steps):
        moved = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
        assert moved == {("champion", "canary")}


def test_among_many_canaries_growth_sends_nobody_back_to_the_champion():
    """A third and fourth canary are pushed along by those beneath them, never back."""
    before, after = arms_of(split(0.1, 0.1, 0.1, 0.1)), arms_of(split(0.2, 0.1, 0.1, 0.2))
    assert not [a for a, b in zip(before, after, strict=True) if a != "champion" and b == "champion"]


def test_another_salt_draws_independently():
    """The overlap of two draws of 30 % is what chance gives, 9 %, within five standard deviations."""
    one, two = arms_of(split(0.3)), arms_of(split(0.3, salt="t"))
    both = sum(a == b == "canary" for a, b in zip(one, two, strict=True))
    n = len(PEOPLE)
    assert abs(both - 0.09 * n) <= 5 * math.sqrt(n * 0.09 * 0.91)


def test_what_is_no_entity_goes_to_the_champion_and_a_named_arm_is_kept():
    """Rows without a usable key are refused there; a caller's choice stands before the draw."""
    found = split(1.0)
    assert found.assigned([None, True, 1.5, [1], {}, 17, 17], [""] * 6 + ["champion"]) == [
        *["champion"] * 5,
        "canary",
        "champion",
    ]
    assert found.arm_of("\ud800") == "canary"


def test_a_canary_that_is_not_loaded_leaves_its_entities_to_the_champion():
    """Nobody is sent to an arm that cannot answer."""
    rollout = Rollout((Arm("champion", "a", 0.0), Arm("canary", "b", 1.0)), "s")
    assert {Split(rollout, {"champion"}).arm_of(person) for person in range(100)} == {"champion"}
