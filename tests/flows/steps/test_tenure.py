"""Tenure: the stack of champions that a rollback walks back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.steps.rollouts.tenure import PROMOTED, ROLLED_BACK, stack, target

NOISE = ("trained: PROMOTE", "trained: HOLD", "drift: drift", "drift: none", "feedback", "reverted")


def line(action: str, version: str = "1") -> dict[str, Any]:
    return {"action": action, "version": version, "at": "1998-01-01T00:00:00+00:00"}


versions = st.integers(1, 9).map(str)
promotions = st.builds(line, st.just(PROMOTED), versions)
lines = st.lists(st.one_of(promotions, st.builds(line, st.sampled_from((ROLLED_BACK, *NOISE)), versions)), max_size=30)


def test_by_hand() -> None:
    """Promote 1, 2 and 3, go back twice, promote 4: today's is 4, and before it was 1."""
    story = [line(PROMOTED, v) for v in "123"] + [line(ROLLED_BACK, "2"), line(ROLLED_BACK, "1"), line(PROMOTED, "4")]
    assert stack(story) == ["1", "4"]
    assert stack(story[:4]) == ["1", "2"]
    assert stack([]) == []


@given(lines, versions)
def test_a_rollback_undoes_a_promotion(before: list[dict[str, Any]], version: str) -> None:
    """Promoting and going back leaves the stack as it was, whatever happened before."""
    assert stack([*before, line(PROMOTED, version)])[-1] == version
    assert stack([*before, line(PROMOTED, version), line(ROLLED_BACK)]) == stack(before)


@given(lines)
def test_other_lines_do_not_matter(story: list[dict[str, Any]]) -> None:
    """Trainings, drift checks, feedback and reverted releases put nobody in charge."""
    assert stack([s for s in story if s["action"] not in NOISE]) == stack(story)


@given(lines)
def test_the_stack_never_grows_but_by_promotions(story: list[dict[str, Any]]) -> None:
    """There are never more champions than promotions, and a rollback of nothing is nothing."""
    actions = [s["action"] for s in story]
    found = stack(story)
    assert max(0, actions.count(PROMOTED) - actions.count(ROLLED_BACK)) <= len(found) <= actions.count(PROMOTED)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ""),
        ([{"action": "promoted", "target": "compose"}], "compose"),
        ([{"action": "promoted", "target": "compose"}, {"action": "promoted"}], ""),
        ([{"action": "promoted"}, {"action": "imaged", "target": "compose"}], "compose"),
        ([{"action": "promoted", "target": "compose"}, {"action": "imaged"}, {"action": "reverted"}], "compose"),
        ([{"action": "promoted", "target": "compose"}, {"action": "rolled back"}], ""),
    ],
)
def test_the_history_says_where_the_champion_runs(lines: list[dict[str, Any]], expected: str) -> None:
    """The last change of champion counts, and what was brought somewhere since."""
    assert target(lines) == expected
