"""Answers: the journal's records of a window, as frames, and the one of a request."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.runtime import journal
from bentos.runtime.journal import Journal
from flows.errors import StoreError
from flows.stores import answers

NOW = datetime(1998, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def record(number: int, at: datetime = NOW, **changes: Any) -> dict[str, Any]:
    given = {
        "request_id": f"{number:032x}",
        "time": at.isoformat(),
        "entity": number,
        "features": {"recency": float(number), "spend": None},
        "score": number / 10,
        "release": "churn:v1",
        "arm": "champion",
        "smoke": False,
    }
    return given | changes


def segment(home: Path, *records: dict[str, Any]) -> Path:
    log = Journal(answers.folder(home, "churn"))
    log.append(list(records))
    log.close()
    return journal.segments(answers.folder(home, "churn"))[-1]


def test_a_shadows_scores_are_no_answers(tmp_path: Path) -> None:
    """A request id does not find what a shadow scored, of whichever release."""
    segment(tmp_path, record(1), record(2, arm="canary"))
    segment(tmp_path, record(1, arm="shadow", release="churn:v2"), record(2, arm="shadow-b"), record(3, arm="shadow"))
    assert answers.find(tmp_path, "churn", f"{1:032x}")["release"] == "churn:v1"
    with pytest.raises(StoreError, match="no answer"):
        answers.find(tmp_path, "churn", f"{3:032x}")


def test_recent_answers_are_each_entitys_latest_by_the_machines_clock(tmp_path: Path) -> None:
    """One per entity and arm since the moment, smoke tests and shadows left out, however the domain's clock stands."""
    wall = datetime.now(UTC)

    def at(number: int, minutes: int, **changes: Any) -> dict[str, Any]:
        return record(number, wall=(wall + timedelta(minutes=minutes)).isoformat(), **changes)

    segment(tmp_path, at(1, -1), at(1, 1, score=0.5), at(2, -1, arm="canary"), at(3, 1, arm="canary", smoke=True))
    segment(tmp_path, at(1, 2, score=0.7), at(4, 1, arm="canary"), at(5, 1, arm="shadow"), at(6, 1, arm="challenger"))
    found = answers.recent(tmp_path, "churn", wall, arms=("champion", "canary"))
    assert {arm: {e: r["score"] for e, r in rows.items()} for arm, rows in found.items()} == {
        "champion": {1: 0.7},
        "canary": {4: 0.4},
    }


def test_features_and_score_become_a_frame(tmp_path: Path) -> None:
    """Numbers in the asked order, NaN for null and for what a record lacks; no record gives typed empty columns."""
    frame = answers.features_frame([record(1), record(2)], ["spend", "recency", "other"])
    assert list(frame.columns) == ["spend", "recency", "other", "score"]
    assert frame["recency"].tolist() == [1.0, 2.0]
    assert np.isnan(frame[["spend", "other"]].to_numpy()).all()
    empty = answers.features_frame([], ["spend"])
    assert (len(empty), list(empty.dtypes)) == (0, [np.dtype("float64")] * 2)


def test_one_answer_is_found_by_its_request_id(tmp_path: Path) -> None:
    """Whichever segment it is in, also one that is still open."""
    segment(tmp_path, record(1), record(2))
    segment(tmp_path, record(3))
    log = Journal(answers.folder(tmp_path, "churn"))
    log.append([record(4)])
    for number in (1, 2, 3, 4):
        assert answers.find(tmp_path, "churn", f"{number:032x}")["entity"] == number
    log.close()


def test_an_unknown_request_is_an_error_that_names_the_journal(tmp_path: Path) -> None:
    """The message has the id and the folder that was searched."""
    segment(tmp_path, record(1))
    with pytest.raises(StoreError, match=f"no answer 'nope' in the journal of churn below {tmp_path}"):
        answers.find(tmp_path, "churn", "nope")


def test_a_segment_that_is_rotated_meanwhile_is_searched_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may finish its segment between the listing and the reading."""
    log = Journal(answers.folder(tmp_path, "churn"))
    log.append([record(1)])
    listed = journal.segments(answers.folder(tmp_path, "churn"))
    log.close()
    monkeypatch.setattr(journal, "segments", lambda folder: listed)
    assert answers.find(tmp_path, "churn", f"{1:032x}")["entity"] == 1
