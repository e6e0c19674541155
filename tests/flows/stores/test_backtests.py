"""Finished work of backtests on disk: equal when read again, done again when altered, named by what it follows from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.steps.backtesting import past as pasts
from flows.steps.backtesting.trained import Costed, Trained
from flows.stores import backtests
from tests.flows.steps import years

MOMENT = pd.Timestamp("2023-06-01", tz="UTC")


@pytest.fixture(scope="module")
def made() -> Costed[Trained]:
    """One real training."""
    return years.work(years.past(years.year("none").rows)).trained(MOMENT)


def test_a_kept_training_answers_as_it_did(made: Costed[Trained], tmp_path: Path) -> None:
    """Scores, promise, reference, calibration, recipe and cost survive the way to disk and back."""
    backtests.save(tmp_path / "one", made)
    found = backtests.load(tmp_path / "one")
    assert found is not None
    x = np.random.default_rng(0).normal(size=(50, 2))
    assert found.value.scorer.score(x).tolist() == made.value.scorer.score(x).tolist()
    same = ("moment", "recipe", "rows", "parity", "latency_us", "promised", "reference", "known", "quality", "model")
    assert [getattr(found.value, name) for name in same] == [getattr(made.value, name) for name in same]
    assert found.value.scorer.manifest.threshold == made.value.scorer.manifest.threshold
    assert found.seconds == made.seconds
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "training.json", "reference.json"])
def test_an_altered_training_is_done_again(made: Costed[Trained], tmp_path: Path, file: str) -> None:
    """What does not match its own hashes is no training, and is out of the way."""
    place = tmp_path / "one"
    backtests.save(place, made)
    (place / file).write_bytes((place / file).read_bytes()[:-3])
    assert backtests.load(place) is None
    assert not place.exists()
    backtests.save(place, made)
    assert backtests.load(place) is not None


def test_a_kept_verdict_is_the_one_that_was_given(made: Costed[Trained], tmp_path: Path) -> None:
    """Verdict and cost survive; one that does not follow from its results is not believed."""
    done = years.work(years.past(years.year("none").rows))
    found = done.judged(made.value, None)
    place = tmp_path / "verdict.json"
    assert backtests.load_verdict(place) is None
    backtests.save_verdict(place, found)
    assert backtests.load_verdict(place) == found
    text = place.read_text()
    other = "REJECT" if found.value.verdict == "PROMOTE" else "PROMOTE"
    place.write_text(text.replace(f'"verdict": "{found.value.verdict}"', f'"verdict": "{other}"'))
    assert backtests.load_verdict(place) is None


def test_a_name_changes_with_what_the_work_follows_from() -> None:
    """Rows, settings that matter and the recipe change it; retraining rules and the title do not."""
    rows = pasts.examples(years.past(years.year("none").rows), MOMENT)[0]
    one = rows.part(np.arange(len(rows.y)) < 100)
    other = replace(one, y=1 - one.y)
    assert backtests.rows_hash(one) == backtests.rows_hash(rows.part(np.arange(len(rows.y)) < 100))
    assert backtests.rows_hash(one) != backtests.rows_hash(other)
    case = years.CASE
    stricter = replace(case, gates=replace(case.gates, min_roc_auc=0.61))
    assert backtests.declared(case) != backtests.declared(stricter)
    assert backtests.declared(case) == backtests.declared(replace(case, title="Another"))
    assert backtests.key("train", 1) == backtests.key("train", 1) != backtests.key("train", 2)


def test_a_result_that_was_removed_is_none(tmp_path: Path) -> None:
    """The newest result is found by its pointer, and its loss is no error."""
    assert backtests.latest(tmp_path, "year") is None
    place = backtests.save_result(tmp_path, "year", "abc", {"windows": 3})
    assert backtests.latest(tmp_path, "year") == {"windows": 3}
    place.unlink()
    assert backtests.latest(tmp_path, "year") is None
