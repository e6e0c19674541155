"""Quality over time: the picture's line says what is known, and nothing is shown where nothing is."""

from dataclasses import replace

import pytest

from flows.steps.monitoring.course import Point, Span
from flows.steps.pages import quality_story

SPAN = Span(0.8, 0.75, 0.85)
BOTH = Point(month="1998-02", release="churn:v1-aa", promised=0.79, estimated=SPAN, measured=SPAN, inside=True)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((BOTH, replace(BOTH, inside=False)), "1 of 2 estimates held what labels measured"),
        ((replace(BOTH, inside=None, estimated=None),), "ROC AUC reached its promise in 1 of 1 month"),
        ((replace(BOTH, inside=None), replace(BOTH, inside=None, promised=0.81)), "in 1 of 2 months"),
        ((replace(BOTH, inside=None, measured=None),), "ROC AUC as estimated; no labels are in yet"),
    ],
)
def test_the_title_says_what_is_known(points: tuple[Point, ...], said: str) -> None:
    """Estimates that were held to labels come first, then months held to the promise, then what is only estimated."""
    assert said in quality_story.title(points)


def test_no_point_is_no_block() -> None:
    """Before the first estimate and the first label there is nothing to draw."""
    assert quality_story.blocks(()) == ()
