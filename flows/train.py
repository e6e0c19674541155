"""train: cohorts, point-in-time join, search, fit, export, gates, MLflow version with its verdict."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock
from bentos.runtime.manifest import Manifest
from bentos.runtime.scorer import Scorer
from flows import usecases
from flows.errors import StoreError
from flows.release import release
from flows.settings import settings
from flows.steps import candidate as candidates
from flows.steps import card, cohorts, dossier, gates, policy, search
from flows.steps.candidate import Candidate, Table
from flows.stores import features, history, lineage, profiles, registry, tables
from flows.usecases.spec import UseCase

Drill = Literal["shuffled_labels"]


@task(cache_policy=NO_CACHE)
def assemble(name: str, snapshot: str, as_of: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Entities and labels at every cut-off, joined with the features of that moment; one row per entity and cut-off."""
    events = tables.read_snapshot(home / "snapshots" / name, snapshot)
    return features.training_frame(features.open_store(home), usecases.load(name), events, as_of)


@task(cache_policy=NO_CACHE)
def find(case: UseCase, train: Table, experiment: str) -> search.Found:
    """Bounded search; every trial is a nested MLflow run."""

    def record(trial: search.Trial) -> None:
        with registry.run(experiment, trial.estimator, nested=True):
            registry.log(params=trial.params, metrics={"brier_skill_mean": trial.mean, "brier_skill_sd": trial.deviation})

    return search.search(case, train.names, train.x, train.y, train.entities, on_trial=record, progress=True)


@task(cache_policy=NO_CACHE)
def build(
    case: UseCase, train: Table, test: Table, found: search.Found, draft: Manifest, champion: "Champion | None"
) -> Candidate:
    """Fit, export, score beside champion and dummy."""
    fitted, model, scorer = candidates.fit(case, train, found.chosen, draft)
    return candidates.evaluate(
        case, fitted, model, scorer, train, test, as_of=cohorts.utc(draft.as_of),
        champion=champion[0] if champion else None, champion_x=champion[1] if champion else None,
    )


Champion = tuple[Scorer, "np.ndarray[Any, np.dtype[np.float64]]"]


def champion_on(case: UseCase, joined: pd.DataFrame, test_time: pd.Timestamp, home: Path) -> Champion | None:
    """The champion's scorer and its own features of the test rows; None before the first release."""
    version = registry.by_alias(case.name, "champion")
    if version is None:
        return None
    with TemporaryDirectory() as folder:
        scorer = Scorer.load(registry.release_files(version, Path(folder)))
    rows = joined[joined["event_timestamp"] == test_time]
    if missing := [n for n in scorer.manifest.names if n not in rows]:
        rows = features.point_in_time(
            features.open_store(home), rows[[case.entity, "event_timestamp"]], scorer.manifest.feature_service
        )
        if missing := [n for n in missing if n not in rows]:
            raise StoreError(f"champion {version.number} needs {missing}, which Feast no longer has: it cannot be compared")
    return scorer, rows[scorer.manifest.names].to_numpy(dtype=np.float64)


@task(cache_policy=NO_CACHE)
def record(
    case: UseCase, built: Candidate, verdict: gates.Verdict, found: search.Found, train: Table, test: Table,
    facts: dict[str, Any], run_id: str,
) -> registry.Version:
    """Everything on the MLflow run, then the version with its verdict among the tags from the first moment."""
    with TemporaryDirectory() as folder:
        release = Path(folder) / "release"
        manifest = dossier.write(release, built, verdict, found, test, facts,
                                 profile=profiles.profile(dossier.reference_frame(test, built.test_scores)))
        registry.log(
            params={"estimator": found.chosen.estimator, **found.chosen.params, **{k: facts[k] for k in (
                "snapshot", "as_of", "commit", "lock", "reason", "frame")}},
            metrics=dossier.flat_metrics(built, found),
            texts={"model_card.md": card_of(case, built, verdict, found, train, test, facts),
                   "gates.json": json.dumps(gates.to_dict(verdict)), "gates.md": gates.as_markdown(verdict)},
            images=dossier.pictures(built),
            folder=release,
        )
        for part, context in ((train, "training"), (test, "holdout")):
            frame = part.frame().assign(**{case.label: part.y})
            registry.log_dataset(frame, name=f"{case.name}-{context}", source=facts["source"],
                                 label=case.label, context=context)
        example = test.frame().head(5)
        scores = pd.DataFrame({"probability": built.scorer.score(test.x[:5])})
        uri = registry.log_model(release, example, scores)
    return registry.register(uri, case.name, run_id, {
        "verdict": verdict.verdict, "reasons": json.dumps(verdict.reasons), "manifest_sha256": manifest.digest(),
        "snapshot": facts["snapshot"], "commit": facts["commit"], "as_of": facts["as_of"], "reason": facts["reason"],
        "drill": facts["drill"] or "", "judged_against": facts["champion"] or "",
    })


def card_of(case: UseCase, built: Candidate, verdict: gates.Verdict, found: search.Found, train: Table, test: Table,
            facts: dict[str, Any]) -> str:
    """The model card of a candidate."""
    return card.model_card(
        title=case.title, use_case=case.name, verdict=verdict, intervals=built.intervals, dummy=built.dummy,
        slices=built.slices, importance=built.importance, facts={
            **{k: str(v) for k, v in facts.items()}, "estimator": found.chosen.estimator, "choice": found.reason,
            "training rows": str(len(train.y)), "test rows": str(len(test.y)),
            "training cut-offs": f"{pd.Timestamp(train.times.min()).date()} to {pd.Timestamp(train.times.max()).date()}",
            "test cut-off": str(pd.Timestamp(test.times.max()).date()),
        },
        reproduce=f"bentoflow reproduce VERSION --use-case {case.name}",
    )


@contextmanager
def only_one(home: Path, use_case: str) -> Iterator[bool]:
    """True for the one training of a use case at a time; the lock ends with its process, however that ends."""
    path = home / "locks" / f"train-{use_case}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def latest(home: Path, use_case: str) -> tuple[str, pd.Timestamp]:
    """Snapshot and moment of the newest prepare; StoreError if there was none."""
    path = home / "snapshots" / use_case / "latest.json"
    if not path.exists():
        raise StoreError(f"nothing is prepared for {use_case}: run `bentoflow prepare --use-case {use_case}`")
    found = json.loads(path.read_text())
    return found["snapshot"], cohorts.utc(found["as_of"])


@flow(name="train")
def train(
    use_case: str = "churn", as_of: datetime | None = None, reason: str = "manual", drill: Drill | None = None,
    release_if_better: bool = False,
) -> dict[str, Any]:
    """Train a candidate on what was known at `as_of` (default: the newest prepare), judge it and register it.

    `drill` plants a known fault, so that a team can see its gates refuse; such a version says so in its tags.
    With `reason="drift"` the cooldown applies; with `release_if_better` a promoted version is released at once.
    """
    home, log = settings().home, get_run_logger()
    with only_one(home, use_case) as alone:
        if not alone:
            log.warning("another training of %s is running; this one does nothing", use_case)
            return {"use_case": use_case, "skipped": "another training is running"}
        wait = reason == "drift" and _cooldown(usecases.load(use_case), home)
        if wait:
            log.warning("not training %s: %s", use_case, wait)
            return {"use_case": use_case, "skipped": wait}
        result = _train(usecases.load(use_case), as_of, reason, drill, home)
    log.info("version %s: %s. %s", result["version"], result["verdict"], " ".join(result["reasons"]))
    if release_if_better and result["verdict"] == "PROMOTE":
        result["release"] = release(use_case, result["version"], reason=reason)
    return result


def _cooldown(case: UseCase, home: Path) -> str | None:
    return policy.cooldown(history.read(home, case.name), clock.now(home, case.name), case.drift.cooldown_days)


def _train(case: UseCase, as_of: datetime | None, reason: str, drill: Drill | None, home: Path) -> dict[str, Any]:
    snapshot, prepared = latest(home, case.name)
    moment = cohorts.utc(pd.Timestamp(as_of)) if as_of else prepared
    joined = assemble(case.name, snapshot, moment, home)
    names = features.feature_names(features.open_store(home), case.feature_service)
    everything, parts = candidates.table(case, joined, names), cohorts.split(case, moment)
    held_out = everything.times == np.datetime64(parts.test.tz_localize(None))
    training, test = everything.part(~held_out), everything.part(held_out)
    if drill == "shuffled_labels":
        training = candidates.mislabelled(training, case.seed)
    facts = {
        "snapshot": snapshot, "as_of": moment.isoformat(), "commit": lineage.commit(), "lock": lineage.lock_hash(),
        "reason": reason, "seed": case.seed, "drill": drill,
        "champion": registry.aliases(case.name).get("champion"), "frame": tables.content_hash(joined)[:16],
        "source": str(home / "snapshots" / case.name / f"{snapshot}.parquet"),
    }
    experiment = registry.connect(case.name, home)
    with registry.run(experiment, f"train {moment.date()}", tags={"kind": "train", "reason": reason}) as run_id:
        found = find(case, training, experiment)
        draft = dossier.draft(case, run_id, facts)
        built = build(case, training, test, found, draft, champion_on(case, joined, parts.test, home))
        verdict = gates.judge(built.evidence, case.gates)
        version = record(case, built, verdict, found, training, test, facts, run_id)
    if verdict.verdict == "PROMOTE":
        registry.set_aliases(case.name, {"challenger": version.number})
    metrics = {name: asdict(value) for name, value in built.intervals.items()}
    history.append(home, case.name, f"trained: {verdict.verdict}", at=moment.to_pydatetime(), version=version.number,
                   reason=reason, reasons=verdict.reasons, drill=drill)
    create_markdown_artifact(key=f"{case.name}-train", markdown=f"# {case.title} version {version.number}: "
                             f"{verdict.verdict}\n\n{found.reason}\n\n{gates.as_markdown(verdict)}")
    return {
        "use_case": case.name, "version": version.number, "verdict": verdict.verdict, "reasons": list(verdict.reasons),
        "run_id": run_id, "choice": found.reason, "metrics": metrics, "as_of": facts["as_of"], "snapshot": snapshot,
        "failed": [r.name for r in verdict.results if not r.passed],
        "base_rate": built.dummy["base_rate"], "dummy": built.dummy, "test_cutoff": parts.test.isoformat(),
    }


if __name__ == "__main__":
    print(train())
