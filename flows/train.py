"""train: cohorts, point-in-time join, search, fit, export, gates, MLflow version with its verdict."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from threadpoolctl import threadpool_limits

from bentos.runtime import clock
from bentos.runtime.scoring.manifest import Manifest
from flows import usecases
from flows.errors import StoreError
from flows.release import release, settle
from flows.settings import settings
from flows.steps.data import cohorts
from flows.steps.gating import gates
from flows.steps.monitoring import policy
from flows.steps.training import candidate as candidates
from flows.steps.training import dossier, search
from flows.steps.training.candidate import Table
from flows.stores import features, history, lineage, locks, prepared, registry, tables, versions
from flows.usecases.spec import UseCase

Drill = Literal["shuffled_labels"]


@task(cache_policy=NO_CACHE)
def assemble(name: str, snapshot: str, as_of: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Labelled rows, each joined with the features of its own time."""
    events = tables.read_snapshot(home / "snapshots" / name, snapshot)
    return features.training_frame(features.open_store(home), usecases.load(name), events, as_of)


@task(cache_policy=NO_CACHE)
def find(case: UseCase, train: Table, experiment: str) -> search.Found:
    """Bounded search; every trial is a nested MLflow run."""

    def record(trial: search.Trial) -> None:
        with registry.run(experiment, trial.estimator, nested=True):
            registry.log(
                params=trial.params, metrics={"brier_skill_mean": trial.mean, "brier_skill_sd": trial.deviation}
            )

    return search.search(
        case,
        train.names,
        train.x,
        train.y,
        train.entities,
        categorical=train.categorical,
        on_trial=record,
        progress=True,
    )


@task(cache_policy=NO_CACHE)
def build(
    case: UseCase, train: Table, test: Table, found: search.Found, draft: Manifest, rival: candidates.Rival | None
) -> candidates.Candidate:
    """Fit, export, score beside champion and dummy."""
    fitted, model, scorer = candidates.fit(case, train, found.chosen, draft)
    moment = cohorts.utc(draft.as_of)
    return candidates.evaluate(case, fitted, model, scorer, train=train, test=test, as_of=moment, rival=rival)


@task(cache_policy=NO_CACHE)
def record(outcome: dossier.Outcome, run_id: str) -> registry.Version:
    """Register the version with its verdict and all of its evidence."""
    return versions.record(outcome, run_id)


@flow(name="train")
def train(
    use_case: str = "churn",
    as_of: datetime | None = None,
    reason: str = "manual",
    drill: Drill | None = None,
    release_if_better: bool = False,
) -> dict[str, Any]:
    """Train a candidate on what was known at `as_of` (default: the newest prepare), judge it and register it.

    `drill` plants a known fault, so that a team can see its gates refuse; such a version says so in its tags.
    With `reason="drift"` the cooldown applies, and no automatic reason trains on broken data; with
    `release_if_better` a promoted version is released at once.
    """
    home, log = settings().home, get_run_logger()
    with locks.held(home, f"train-{use_case}") as alone:
        if not alone:
            log.warning("another training of %s is running; this one does nothing", use_case)
            return {"use_case": use_case, "skipped": "another training is running"}
        wait = _waits(usecases.load(use_case), reason, home)
        if wait:
            log.warning("not training %s: %s", use_case, wait)
            return {"use_case": use_case, "skipped": wait}
        settle(home, use_case)
        history.append(
            home, use_case, "training started", at=clock.now(home, use_case), reason=reason, drill=drill, as_of=as_of
        )
        with threadpool_limits(1):  # on tables this small, more threads of a numerical library wait for each other
            result = _train(usecases.load(use_case), as_of, reason, drill, home)
    log.info("version %s: %s. %s", result["version"], result["verdict"], " ".join(result["reasons"]))
    if release_if_better and result["verdict"] == "PROMOTE":
        result["release"] = release(use_case, result["version"], reason=reason)
    return result


def _waits(case: UseCase, reason: str, home: Path) -> str | None:
    """Why a training that nobody asked for must wait, or None."""
    lines, now = history.read(home, case.name), clock.now(home, case.name)
    broken = policy.broken(lines, now) if reason in policy.AUTOMATIC else None
    return broken or (policy.cooldown(lines, now, case.drift.cooldown_days) if reason == "drift" else None)


def _train(case: UseCase, as_of: datetime | None, reason: str, drill: Drill | None, home: Path) -> dict[str, Any]:
    snapshot, moment = _known(case, as_of, home)
    with locks.held(home, f"data-{case.name}", wait=True):  # so that no prepare rewrites the features meanwhile
        joined = assemble(case.name, snapshot, moment, home)
    cutoff = cohorts.test_start(case, moment)
    training, test = _split(case, joined, cutoff, drill, home)
    champion, rival = versions.rival(case, joined, cutoff, home) or (None, None)
    facts = {
        "snapshot": snapshot,
        "as_of": moment.isoformat(),
        "commit": lineage.commit(),
        "lock": lineage.lock_hash(),
        "reason": reason,
        "seed": case.seed,
        "drill": drill,
        "champion": champion,
        "frame": tables.content_hash(joined)[:16],
        "source": str(home / "snapshots" / case.name / f"{snapshot}.parquet"),
    }
    experiment = registry.connect(case.name, home)
    with registry.run(experiment, f"train {moment.date()}", tags={"kind": "train", "reason": reason}) as run_id:
        found = find(case, training, experiment)
        built = build(case, training, test, found, dossier.draft(case, run_id, facts), rival)
        verdict = gates.judge(built.evidence, case.gates)
        outcome = dossier.Outcome(
            case=case, built=built, verdict=verdict, found=found, train=training, test=test, facts=facts
        )
        version = record(outcome, run_id)
    _remember(outcome, version, home)
    return {
        "use_case": case.name,
        "version": version.number,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "run_id": run_id,
        "choice": found.reason,
        "metrics": {name: asdict(value) for name, value in built.intervals.items()},
        "as_of": facts["as_of"],
        "snapshot": snapshot,
        "failed": [r.name for r in verdict.results if not r.passed],
        "dummy": built.dummy,
        "test_cutoff": cutoff.isoformat(),
    }


def _known(case: UseCase, as_of: datetime | None, home: Path) -> tuple[str, pd.Timestamp]:
    """The newest snapshot and the moment to train at, which it must reach."""
    snapshot, newest = prepared.latest(home, case.name)
    moment = cohorts.utc(pd.Timestamp(as_of)) if as_of else newest
    if moment > newest:
        raise StoreError(
            f"{case.name} is prepared until {newest.date()}, asked was {moment.date()}: labels would look mature "
            f"that are not. Run `bentoflow prepare --use-case {case.name} --as-of {moment.date()}`"
        )
    return snapshot, moment


def _split(
    case: UseCase, joined: pd.DataFrame, cutoff: pd.Timestamp, drill: Drill | None, home: Path
) -> tuple[Table, Table]:
    """Training rows, with the drill's fault planted, and the held-out ones, from the cut-off on."""
    store = features.open_store(home)
    categorical = features.categorical_names(store, case)
    everything = candidates.table(case, joined, features.input_names(store, case), categorical)
    held_out = everything.times >= np.datetime64(cutoff.tz_localize(None))
    training = everything.part(~held_out)
    if drill == "shuffled_labels":
        training = candidates.mislabelled(training, case.seed)
    return training, everything.part(held_out)


def _remember(outcome: dossier.Outcome, version: registry.Version, home: Path) -> None:
    """Alias, history and artifact of a judged version."""
    case, verdict, facts = outcome.case, outcome.verdict, outcome.facts
    if verdict.verdict == "PROMOTE" and not facts["drill"]:
        registry.set_aliases(case.name, {"challenger": version.number})
    history.append(
        home,
        case.name,
        f"trained: {verdict.verdict}",
        at=datetime.fromisoformat(facts["as_of"]),
        version=version.number,
        reason=facts["reason"],
        reasons=verdict.reasons,
        drill=facts["drill"],
    )
    create_markdown_artifact(
        key=f"{case.name}-train",
        markdown=f"# {case.title} version {version.number}: "
        f"{verdict.verdict}\n\n{outcome.found.reason}\n\n{gates.as_markdown(verdict)}",
    )


if __name__ == "__main__":
    print(train())
