"""The course of quality: estimates and measurements of one month and release meet, and nothing else does."""

from typing import Any

from flows.steps.monitoring.course import Span, course, kept


def verdict(month: str, value: float, **changes: Any) -> dict[str, Any]:
    level = {"how": "estimated", "value": value, "low": value - 0.02, "high": value + 0.02, "promised": 0.8}
    given = {
        "release": "churn:v1",
        "since": f"{month}-01T00:00:00+00:00",
        "until": f"{month}-28T00:00:00+00:00",
        "kind": "benign",
        "quality": {"estimated": level},
    }
    return given | changes


def month(name: str, value: float, *releases: str) -> dict[str, Any]:
    found = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return {"month": name, "releases": list(releases or ("churn:v1",)), "roc_auc": found, "promised": 0.8}


def window(of: dict[str, Any], value: float) -> dict[str, Any]:
    return {**{name: of[name] for name in ("release", "since", "until")}, "roc_auc": value}


def test_estimated_and_measured_of_a_month_and_release_are_one_point() -> None:
    """In order of time; whether the estimate held is said of a window's own rows, once labelled."""
    january, february = verdict("1998-01", 0.80), verdict("1998-02", 0.81)
    measured = {"months": [month("1998-01", 0.815)], "windows": [window(january, 0.83)]}
    first, second = course([february, january], measured)
    assert (first.month, first.release, first.promised, first.inside) == ("1998-01", "churn:v1", 0.8, False)
    assert (first.estimated, first.measured) == (
        Span(0.80, 0.78, 0.8200000000000001),
        Span(0.815, 0.815 - 0.01, 0.815 + 0.01),
    )
    assert (second.measured, second.inside) == (None, None)
    assert kept([first, second]) == (0, 1)


def test_releases_of_one_month_stand_apart() -> None:
    """A month in which two releases answered is measured for both together, and is neither's own."""
    points = course([verdict("1998-01", 0.8)], {"months": [month("1998-01", 0.7, "churn:v1", "churn:v2")]})
    assert [(p.release, p.estimated is None, p.measured is None) for p in points] == [
        ("churn:v1", False, True),
        ("churn:v1, churn:v2", True, False),
    ]


def test_broken_data_are_left_out_and_the_newest_window_of_a_month_counts() -> None:
    """What a broken pipe scored says nothing of the model; a later check of the month replaces an earlier one."""
    later = verdict("1998-01", 0.79, since="1998-01-03T00:00:00+00:00", until="1998-01-30T00:00:00+00:00")
    broken = verdict("1998-01", 0.6, kind="data_bug", until="1998-01-31T00:00:00+00:00")
    (point,) = course([later, verdict("1998-01", 0.8), broken, verdict("1998-02", 0.8, quality={})], {})
    assert point.estimated is not None
    assert point.estimated.value == 0.79


def test_a_window_belongs_to_the_month_of_its_middle() -> None:
    """A check at the first of a month looks back on the month before."""
    whole = verdict("1998-03", 0.8, since="1998-02-26T00:00:00+00:00", until="1998-03-28T00:00:00+00:00")
    assert [p.month for p in course([whole], {})] == ["1998-03"]
    assert course([], {}) == ()
