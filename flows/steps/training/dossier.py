"""The release folder of a candidate: manifest, model, golden rows, reference, training facts and test predictions."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.monitoring import calibration, rules, sketches
from bentos.runtime.scoring.manifest import GOLDEN, MANIFEST, MODEL, REFERENCE, REFERENCE_PROFILE, Manifest, sha256
from flows.steps.gating import gates
from flows.steps.monitoring import estimates, transfer
from flows.steps.pages import model_plots
from flows.steps.training import card, probes, search
from flows.steps.training.arrays import Table
from flows.steps.training.candidate import Candidate
from flows.usecases.spec import UseCase

TRAINING = "training.json"
PREDICTIONS = "predictions.parquet"
GOLDEN_ROWS = 32


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A training that has been judged: what is registered and what the page and the card are made from."""

    case: UseCase
    built: Candidate
    verdict: gates.Verdict
    found: search.Found
    train: Table
    test: Table
    facts: dict[str, Any]


def draft(case: UseCase, run_id: str, facts: dict[str, Any]) -> Manifest:
    """A manifest before fitting: origin known, features and verdict still open."""
    return Manifest(
        use_case=case.name,
        entity=case.entity,
        feature_service=case.feature_service,
        features=(),
        threshold=0.5,
        risks=case.risks,
        others=case.keys[1:],
        request=case.request,
        time=case.time if case.by_event else "",
        stale=case.stale,
        engine="onnx",
        estimator="",
        run_id=run_id,
        as_of=facts["as_of"],
        snapshot=facts["snapshot"],
        commit=facts["commit"],
        lock=facts["lock"],
        seed=case.seed,
        verdict="",
    )


def golden(built: Candidate, test: Table) -> dict[str, Any]:
    """Rows with gaps among them, and the exported model's scores: what a release must answer exactly."""
    x = np.vstack([test.x[: GOLDEN_ROWS - 8], probes.with_gaps(test.x[:8], built.evidence.seed, 0.3)[8:16]])
    rows = [{n: None if v is None or v != v else v for n, v in zip(test.names, row, strict=True)} for row in x.tolist()]
    entities = [int(e) for e in test.entities[: len(rows)]]
    others = {name: [int(e) for e in column[: len(rows)]] for name, column in test.others.items()}
    return {"entities": entities, "others": others, "rows": rows, "scores": built.scorer.score(x).tolist()}


def reference_frame(outcome: Outcome) -> pd.DataFrame:
    """The held-out features and scores: what serving is compared with."""
    return outcome.test.frame().assign(score=outcome.built.test_scores)


def promised_quality(built: Candidate, train: Table, test: Table) -> estimates.Quality | None:
    """What the labelled rows say of the scores of windows to come; None where the held-out ones are of one class."""
    threshold, entities = built.scorer.manifest.threshold, test.entities
    quality = estimates.recalibrate(test.y, built.test_scores, threshold, entities)
    if quality is None:
        return None
    held_out, rising = transfer.Cohort(test.y, built.test_scores, entities), []
    if (unseen := built.unseen) is not None:
        earlier = transfer.Cohort(unseen.labels, unseen.scores, train.entities[unseen.rows])
        rising = transfer.cohorts(earlier, train.times[unseen.rows])
    return transfer.widened(quality, [*rising, held_out])


def training_facts(outcome: Outcome) -> dict[str, Any]:
    """Everything that explains the version or trains it again."""
    built, found = outcome.built, outcome.found
    return {
        "estimator": found.chosen.estimator,
        "params": found.chosen.params,
        "choice": found.reason,
        **outcome.facts,
        "trials": [asdict(t) for t in found.trials],
        "intervals": {k: asdict(v) for k, v in built.intervals.items()},
        "gates": gates.to_dict(outcome.verdict),
        "slices": built.slices,
        "importance": [asdict(i) for i in built.importance],
        "dummy": built.dummy,
        "test_cutoff": pd.Timestamp(outcome.test.times.min()).isoformat(),
    }


def write(folder: Path, outcome: Outcome, *, profile: bytes) -> Manifest:
    """Write the release folder, the manifest last, with every file's hash; `profile` is the holdout's whylogs one."""
    built, test = outcome.built, outcome.test
    folder.mkdir(parents=True)
    reference = sketches.reference(reference_frame(outcome), bins=outcome.case.drift.bins)
    (folder / MODEL).write_bytes(built.model)
    (folder / GOLDEN).write_text(json.dumps(golden(built, test)))
    (folder / REFERENCE).write_text(sketches.to_json(reference))
    (folder / REFERENCE_PROFILE).write_bytes(profile)
    known = calibration.calibrate(reference, outcome.case.drift, seed=outcome.case.seed)
    (folder / calibration.FILE).write_text(calibration.to_json(known))
    (folder / rules.FILE).write_text(rules.to_json(outcome.case.drift))
    if quality := promised_quality(outcome.built, outcome.train, outcome.test):
        (folder / estimates.FILE).write_text(estimates.to_json(quality))
    (folder / TRAINING).write_text(json.dumps(training_facts(outcome), default=str))
    predictions = {"entity": test.entities, "time": test.times, "label": test.y, "score": built.test_scores}
    pd.DataFrame(predictions).to_parquet(folder / PREDICTIONS, coerce_timestamps="us")
    manifest = replace(
        built.scorer.manifest,
        verdict=outcome.verdict.verdict,
        reasons=tuple(outcome.verdict.reasons),
        metrics={name: float(i.value) for name, i in built.intervals.items()},
        files={p.name: sha256(p) for p in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(manifest.dump())
    return manifest


def model_card(outcome: Outcome) -> str:
    """The version's model card, markdown."""
    built, found, train, test = outcome.built, outcome.found, outcome.train, outcome.test
    first, last = pd.Timestamp(train.times.min()), pd.Timestamp(train.times.max())
    return card.model_card(
        title=outcome.case.title,
        use_case=outcome.case.name,
        verdict=outcome.verdict,
        intervals=built.intervals,
        dummy=built.dummy,
        slices=built.slices,
        importance=built.importance,
        facts={
            **{k: _listed(v) for k, v in outcome.facts.items()},
            "estimator": found.chosen.estimator,
            "choice": found.reason,
            "training rows": str(len(train.y)),
            "test rows": str(len(test.y)),
            "training cut-offs": f"{first.date()} to {last.date()}",
            "test cut-off": str(pd.Timestamp(test.times.min()).date()),
        },
        reproduce=f"bentoflow reproduce VERSION --use-case {outcome.case.name}",
    )


def _listed(fact: Any) -> str:
    """A fact as text; of one with parts those that are not empty."""
    return ", ".join(f"{k} {v}" for k, v in fact.items() if v) if isinstance(fact, dict) else str(fact)


def flat_metrics(outcome: Outcome) -> dict[str, float]:
    """Every figure as one MLflow metric: value, bounds, dummy, cross-validation."""
    built, found = outcome.built, outcome.found
    flat = {"cv_brier_skill_mean": found.chosen.mean, "cv_brier_skill_sd": found.chosen.deviation}
    for name, interval in built.intervals.items():
        flat |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    flat |= {f"dummy_{name}": value for name, value in built.dummy.items()}
    flat |= {f"importance_{i.name}": i.drop for i in built.importance}
    return {name: value for name, value in flat.items() if np.isfinite(value)}


def pictures(built: Candidate) -> dict[str, bytes]:
    """The plots of a version as PNG; none where nothing could be measured."""
    y, scores, threshold = built.evidence.y, built.test_scores, built.scorer.manifest.threshold
    if not built.intervals:
        return {}
    return {
        "confusion.png": model_plots.confusion(y, scores, threshold),
        "roc.png": model_plots.roc(y, scores),
        "precision_recall.png": model_plots.precision_recall(y, scores, threshold),
        "calibration.png": model_plots.calibration(y, scores),
        "importance.png": model_plots.importance(built.importance),
        "scores.png": model_plots.score_histogram(scores, threshold),
    }
