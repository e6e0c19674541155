"""Lineage and reproduction: from a request id back to its score, from a version back to its training."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.categories import rows_to_raw
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.scorer import Scorer, grade
from flows import usecases
from flows.errors import StoreError
from flows.settings import settings
from flows.steps.data import cohorts, quarantine
from flows.steps.data.quarantine import Period
from flows.steps.training import arrays, candidate, dossier, metrics
from flows.steps.training.search import Trial
from flows.stores import answers, bentos, features, lineage, registry, snapshots, tables


def explain(request_id: str, use_case: str) -> dict[str, Any]:
    """Where an answer came from, and whether its features score the same again today."""
    home = settings().home
    record = answers.find(home, use_case, request_id)
    try:
        folder = bentos.model_folder(record["release"])
        scorer = Scorer.load(folder)
    except StoreError:
        with TemporaryDirectory() as target:
            scorer = Scorer.load(registry.release_files(registry.get(use_case, record["model_version"]), Path(target)))
    found = scorer.manifest
    row = {name: record["features"].get(name) for name in found.names}
    again = float(scorer.score(rows_to_raw([row], found))[0])
    decision = found.risks[grade(again, found.cuts)]
    return {
        **{
            k: record[k]
            for k in (
                "request_id",
                "time",
                "entity",
                "arm",
                "release",
                "model_version",
                "features",
                "event_time",
                "score",
                "decision",
                "threshold",
            )
        },
        **({"others": record["others"]} if "others" in record else {}),
        "snapshot": found.snapshot,
        "commit": found.commit,
        "lock": found.lock,
        "run_id": found.run_id,
        "feature_service": found.feature_service,
        "score_again": again,
        "equal": again == record["score"] and decision == record["decision"],
    }


def reproduce(use_case: str, number: str, tolerance: float = 1e-6) -> dict[str, Any]:
    """Retrain a version from its snapshot, parameters and seed, and compare frame, scores and metrics with the stored.

    Features are built anew from the snapshot in a home of their own. `tolerance` bounds the largest difference of a
    score that still counts as equal (another CPU may round differently).
    """
    case, home = usecases.load(use_case), settings().home
    with TemporaryDirectory() as folder:
        stored = registry.release_files(registry.get(use_case, number), Path(folder) / "stored")
        kept, facts = manifest.load(stored), json.loads((stored / dossier.TRAINING).read_text())
        predictions = pd.read_parquet(stored / dossier.PREDICTIONS)
        events = snapshots.read(home, use_case, kept.snapshot)
        without = quarantine.restored(facts.get("quarantine"))
        joined = rebuilt(use_case, events, cohorts.utc(facts["as_of"]), Path(folder) / "home", without)
    everything = arrays.table(case, joined, kept.names, kept.categorical)
    held_out = everything.times >= np.datetime64(cohorts.utc(facts["test_cutoff"]).tz_localize(None))
    training, test = everything.part(~held_out), everything.part(held_out)
    if facts.get("drill") == "shuffled_labels":
        training = arrays.mislabelled(training, kept.seed)
    trial = Trial(estimator=facts["estimator"], params=facts["params"], folds=(0.0,))
    scorer = candidate.fit(case, training, trial, _blank(kept))[2]
    scores, threshold = scorer.score(test.x), scorer.manifest.threshold
    same_rows = np.array_equal(test.entities, predictions["entity"].to_numpy())
    difference = float(np.max(np.abs(scores - predictions["score"].to_numpy()))) if same_rows else math.inf
    measured = metrics.classification(test.y, scores, threshold)
    metric = max((abs(measured[k] - v) for k, v in kept.metrics.items() if k in measured), default=0.0)
    same_frame = tables.content_hash(joined)[:16] == facts["frame"]
    return {
        "use_case": use_case,
        "version": number,
        "snapshot": kept.snapshot,
        "rows": len(scores),
        "commit": f"{kept.commit[:12]} then, {lineage.commit()[:12]} now",
        "same_frame": same_frame,
        "threshold": [kept.threshold, threshold],
        "largest_score_difference": difference,
        "largest_metric_difference": metric,
        "equal": same_frame and max(difference, metric, abs(threshold - kept.threshold)) <= tolerance,
    }


def _blank(kept: Manifest) -> Manifest:
    from dataclasses import replace

    return replace(kept, features=(), files={}, metrics={}, verdict="", reasons=())


def rebuilt(
    use_case: str, events: pd.DataFrame, as_of: pd.Timestamp, home: Path, without: Sequence[Period] = ()
) -> pd.DataFrame:
    """The joined training frame as of a moment, from events alone, with a feature store below `home`."""
    case = usecases.load(use_case)
    for moment in cohorts.grid(case, cohorts.utc(case.first_cutoff), as_of):
        features.write_partition(case, events, moment, home)
    shared = ("BENTOFLOW_FEATURE_REGISTRY", "BENTOFLOW_ONLINE_STORE")  # of services, which nothing here may reach
    before = {name: os.environ.get(name, "") for name in shared}
    before["BENTOFLOW_HOME"] = os.environ.get("BENTOFLOW_HOME", str(settings().home))
    # the feature repository's paths depend on the home
    os.environ.update({**dict.fromkeys(shared, ""), "BENTOFLOW_HOME": str(home)})
    try:
        store = features.open_store(home)
        features.apply(store)
    finally:
        os.environ.update(before)
    return features.training_frame(store, case, events, as_of, without)
