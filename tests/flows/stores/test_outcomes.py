"""Outcomes: the label is a column of profiles, a file per release, arm and month that follows the labels."""

from pathlib import Path

import pandas as pd

from flows.stores import outcomes, profiles


def answered(days: int) -> pd.DataFrame:
    """Answers of so many days from 1998-01-01 on, one release until the twentieth and another one then."""
    times = pd.date_range("1998-01-01", periods=days, tz="UTC")
    return pd.DataFrame(
        {
            "request_id": [f"{i:032x}" for i in range(days)],
            "time": times,
            "release": ["churn:v1" if i < 20 else "churn:v2" for i in range(days)],
            "arm": "champion",
            "score": [i / days for i in range(days)],
            "threshold": 0.5,
            "state": "ok",
            "label": [i % 4 // 3 for i in range(days)],
        }
    )


def test_there_is_one_profile_per_release_and_month_with_the_label_in_it(tmp_path: Path) -> None:
    """Rows and labels are counted exactly, also merged."""
    names = outcomes.profile(answered(40), tmp_path)
    assert [name.rsplit("-", 1)[0] for name in names] == [
        "199801-churn-v1-champion",
        "199801-churn-v2-champion",
        "199802-churn-v2-champion",
    ]
    parts = [(tmp_path / f"{name}.bin").read_bytes() for name in names]
    assert [profiles.sketch(part, "label", edges=(0.5,)).counts for part in parts] == [(15, 5), (9, 2), (6, 3)]
    assert profiles.sketch(profiles.merge(parts), "label", categories=("0", "1")).counts == (30, 10, 0)


def test_it_is_written_once_and_replaced_when_more_labels_come(tmp_path: Path) -> None:
    """The same labels in any order are the same file, which is left alone; more of them take its place."""
    first = outcomes.profile(answered(10), tmp_path)
    path = tmp_path / f"{first[0]}.bin"
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert outcomes.profile(answered(10).sample(frac=1, random_state=1), tmp_path) == first
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    second = outcomes.profile(answered(12), tmp_path)
    assert second != first
    assert [p.stem for p in tmp_path.iterdir()] == second
    assert outcomes.profile(answered(0), tmp_path) == []
