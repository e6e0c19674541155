"""Dossier: the release folder is whole, hashed, and enough to serve, check and repeat the version."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.monitoring import sketches
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.release import check_golden
from bentos.runtime.scoring.scorer import Scorer
from flows.steps.gating import gates
from flows.steps.monitoring import estimates
from flows.steps.training import candidate, dossier, search
from flows.steps.training.dossier import Outcome
from tests.flows.steps.test_candidate import AS_OF, CASE, LOGISTIC, TEST, TRAIN, built

FACTS = {
    "snapshot": "ab12",
    "as_of": AS_OF.isoformat(),
    "commit": "c0ffee",
    "lock": "10c4",
    "reason": "manual",
    "seed": 7,
    "drill": None,
    "champion": None,
    "frame": "f4",
    "source": "/x.parquet",
}


def outcome() -> Outcome:
    found = search.Found(chosen=LOGISTIC, best=LOGISTIC, trials=(LOGISTIC,), reason="the only one")
    verdict = gates.judge(built().evidence, CASE.gates)
    return Outcome(case=CASE, built=built(), verdict=verdict, found=found, train=TRAIN, test=TEST, facts=FACTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dossier") / "release"
    dossier.write(path, outcome(), profile=b"profile")
    return path


def test_every_file_is_listed_with_its_hash(folder: Path) -> None:
    """The manifest names every other file of the folder, and loading checks each of them."""
    found = manifest.load(folder)
    assert set(found.files) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert set(found.files) >= {
        "model.onnx",
        "golden.json",
        "reference.json",
        "reference.bin",
        "training.json",
        "predictions.parquet",
    }


def test_the_manifest_holds_verdict_metrics_and_origin(folder: Path) -> None:
    """Who has only the folder knows what was decided, how good it is and where it came from."""
    found, done = manifest.load(folder), outcome()
    assert found.verdict == done.verdict.verdict
    assert found.reasons == done.verdict.reasons
    assert found.metrics["roc_auc"] == done.built.intervals["roc_auc"].value


def test_writing_again_gives_the_same_digest(folder: Path, tmp_path: Path) -> None:
    """The same outcome is the same release, so that its tag does not depend on when it was written."""
    again = dossier.write(tmp_path / "again", outcome(), profile=b"profile")
    assert again.digest() == manifest.load(folder).digest()


def test_a_folder_is_never_written_over(folder: Path) -> None:
    """A release folder that exists is left alone."""
    with pytest.raises(FileExistsError):
        dossier.write(folder, outcome(), profile=b"other")


def test_golden_rows_have_gaps_and_the_scores_of_the_served_model(folder: Path) -> None:
    """What a release must answer exactly are the exported model's own scores, of whole and of incomplete rows."""
    golden = json.loads((folder / "golden.json").read_text())
    scorer = Scorer.load(folder)
    check_golden(folder, scorer)
    assert len(golden["rows"]) == len(golden["scores"]) == len(golden["entities"]) == dossier.GOLDEN_ROWS
    assert any(v is None for row in golden["rows"] for v in row.values())
    x = np.array([[np.nan if v is None else v for v in row.values()] for row in golden["rows"]], dtype=np.float64)
    assert scorer.score(x).tolist() == golden["scores"]


def test_the_reference_is_what_was_held_out(folder: Path) -> None:
    """Drift is judged against the test rows' features and scores: counted again they are equal."""
    reference = sketches.from_json((folder / "reference.json").read_text())
    frame = TEST.frame().assign(score=built().scorer.score(TEST.x))
    assert sketches.bin_counts(frame, reference) == reference
    assert [s.name for s in reference] == [*TEST.names, "score"]


def test_the_estimate_of_the_held_out_rows_is_what_the_gates_measured(folder: Path) -> None:
    """What scores promise of themselves agrees with the measured promise; earlier cut-offs say how far to trust it."""
    quality = estimates.from_json((folder / estimates.FILE).read_text())
    found = estimates.estimate(quality, estimates.count(built().test_scores))
    for name in ("roc_auc", "accuracy", "brier"):
        assert found[name]["value"] == pytest.approx(built().intervals[name].value, abs=0.012), name
    assert quality.threshold == manifest.load(folder).threshold
    train = replace(outcome(), built=replace(built(), unseen=candidate.unseen(built().fitted, TRAIN, 600, 7)))
    made = dossier.promised_quality(train.built, train.train, train.test)
    assert made is not None
    assert set(made.between) == {"roc_auc", "accuracy", "brier"}
    assert made.curve == quality.curve
    one_class = replace(outcome(), test=replace(TEST, y=np.zeros_like(TEST.y)))
    assert dossier.promised_quality(one_class.built, one_class.train, one_class.test) is None


def test_predictions_and_facts_are_enough_to_train_again(folder: Path) -> None:
    """Estimator, parameters, seed, snapshot and cut-off train a model with the stored predictions."""
    facts = json.loads((folder / "training.json").read_text())
    stored = pd.read_parquet(folder / "predictions.parquet")
    assert (facts["snapshot"], facts["seed"], facts["test_cutoff"]) == ("ab12", 7, "1997-10-01T00:00:00")
    trial = search.Trial(estimator=facts["estimator"], params=facts["params"], folds=(0.0,))
    kept = replace(manifest.load(folder), features=(), files={}, metrics={}, verdict="", reasons=())
    scores = candidate.fit(CASE, TRAIN, trial, kept)[2].score(TEST.x)
    assert scores.tolist() == stored["score"].tolist()
    assert stored["label"].tolist() == TEST.y.tolist()
    assert gates.from_dict(facts["gates"]).verdict == outcome().verdict.verdict


def test_the_card_says_what_a_reader_asks(folder: Path) -> None:
    """Rows, cut-offs, estimator and the command that repeats it are in the card."""
    card = dossier.model_card(outcome())
    for part in ("1500", "1997-06-01", "1997-10-01", "logistic_regression", "bentoflow reproduce"):
        assert part in card, part


def test_metrics_are_flat_and_finite() -> None:
    """MLflow gets each figure with its bounds, the dummy's and the importances, and no NaN."""
    flat = dossier.flat_metrics(outcome())
    assert flat["roc_auc_low"] <= flat["roc_auc"] <= flat["roc_auc_high"]
    assert {"dummy_roc_auc", "importance_buys", "cv_brier_skill_mean", "cv_brier_skill_sd"} <= set(flat)
    assert np.isfinite(list(flat.values())).all()


def test_pictures_are_drawn_where_something_was_measured() -> None:
    """Six plots of a sound version, none where nothing could be measured."""
    pictures = dossier.pictures(built())
    assert len(pictures) == 6
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    assert dossier.pictures(replace(built(), intervals={})) == {}
