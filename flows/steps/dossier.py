"""The release folder of a candidate: manifest, model, golden rows, reference, training facts and test predictions."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.manifest import GOLDEN, MANIFEST, MODEL, REFERENCE, REFERENCE_PROFILE, Manifest, sha256
from flows.steps import export, gates, plots, search, sketches
from flows.steps.candidate import Candidate, Table
from flows.usecases.spec import UseCase

TRAINING = "training.json"
PREDICTIONS = "predictions.parquet"
GOLDEN_ROWS = 32


def draft(case: UseCase, run_id: str, facts: dict[str, Any]) -> Manifest:
    """A manifest before fitting: origin known, features and verdict still open."""
    return Manifest(
        use_case=case.name, entity=case.entity, feature_service=case.feature_service, features=(), threshold=0.5,
        risks=case.risks, stale=case.stale, engine="onnx", estimator="", run_id=run_id, as_of=facts["as_of"],
        snapshot=facts["snapshot"], commit=facts["commit"], lock=facts["lock"], seed=case.seed, verdict="",
    )


def golden(built: Candidate, test: Table) -> dict[str, Any]:
    """Rows with gaps among them, and the exported model's scores: what a release must answer exactly."""
    x = np.vstack([test.x[:GOLDEN_ROWS - 8], export.with_gaps(test.x[:8], built.evidence.seed, 0.3)[8:16]])
    rows = [{n: (None if np.isnan(v) else float(v)) for n, v in zip(test.names, row, strict=True)} for row in x]
    return {"entities": [int(e) for e in test.entities[:len(rows)]], "rows": rows, "scores": built.scorer.score(x).tolist()}


def reference_frame(test: Table, scores: "np.ndarray[Any, np.dtype[np.float64]]") -> pd.DataFrame:
    """The held-out features and scores: what serving is compared with."""
    return test.frame().assign(score=scores)


def write(
    folder: Path, built: Candidate, verdict: gates.Verdict, found: search.Found, test: Table, facts: dict[str, Any],
    *, profile: bytes, bins: int = 10,
) -> Manifest:
    """Write the folder, the manifest last; every file's hash is in it. `profile` is the whylogs one of the holdout."""
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(built.model)
    (folder / GOLDEN).write_text(json.dumps(golden(built, test)))
    (folder / REFERENCE).write_text(sketches.to_json(sketches.reference(reference_frame(test, built.test_scores), bins=bins)))
    (folder / REFERENCE_PROFILE).write_bytes(profile)
    (folder / TRAINING).write_text(json.dumps({
        "estimator": found.chosen.estimator, "params": found.chosen.params, "choice": found.reason, **facts,
        "trials": [asdict(t) for t in found.trials], "intervals": {k: asdict(v) for k, v in built.intervals.items()},
        "gates": gates.to_dict(verdict), "slices": built.slices, "importance": [asdict(i) for i in built.importance],
        "dummy": built.dummy, "test_cutoff": pd.Timestamp(test.times.max()).isoformat(),
    }, default=str))
    pd.DataFrame({
        "entity": test.entities, "time": test.times, "label": test.y, "score": built.test_scores,
    }).to_parquet(folder / PREDICTIONS, coerce_timestamps="us")
    manifest = replace(
        built.scorer.manifest,
        verdict=verdict.verdict, reasons=tuple(verdict.reasons),
        metrics={name: float(i.value) for name, i in built.intervals.items()},
        files={p.name: sha256(p) for p in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(manifest.dump())
    return manifest


def flat_metrics(built: Candidate, found: search.Found) -> dict[str, float]:
    """Every figure as one MLflow metric: value, bounds, dummy, cross-validation."""
    flat = {"cv_brier_skill_mean": found.chosen.mean, "cv_brier_skill_sd": found.chosen.deviation}
    for name, interval in built.intervals.items():
        flat |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    flat |= {f"dummy_{name}": value for name, value in built.dummy.items()}
    flat |= {f"importance_{i.name}": i.drop for i in built.importance}
    return {name: value for name, value in flat.items() if np.isfinite(value)}


def pictures(built: Candidate) -> dict[str, bytes]:
    """The plots of a version as PNG."""
    y, scores, threshold = built.evidence.y, built.test_scores, built.scorer.manifest.threshold
    if not np.isfinite(scores).all():
        return {}
    return {
        "confusion.png": plots.confusion(y, scores, threshold),
        "roc.png": plots.roc(y, scores),
        "precision_recall.png": plots.precision_recall(y, scores),
        "calibration.png": plots.calibration(y, scores),
        "importance.png": plots.importance(built.importance),
        "scores.png": plots.score_histogram(scores, threshold),
    }
