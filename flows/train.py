"""train: cohorts, point-in-time join, search, fit, export, gates, MLflow version with its verdict."""

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from threadpoolctl import threadpool_limits

from bentos.runtime import clock
from bentos.runtime.scoring.manifest import Manifest
from flows import servers, usecases
from flows.alerts import outbox
from flows.examples import examples
from flows.release import release, settle
from flows.retraining import decision
from flows.retraining.decision import Decision
from flows.settings import Drill, settings
from flows.steps.data import cohorts
from flows.steps.gating import gates
from flows.steps.monitoring import policy, triggers
from flows.steps.training import arrays, dossier, search
from flows.steps.training import candidate as candidates
from flows.steps.training.arrays import Table
from flows.stores import history, lineage, locks, registry, snapshots, tables, versions
from flows.usecases.spec import UseCase


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
    case: UseCase,
    train: Table,
    test: Table,
    found: search.Found,
    draft: Manifest,
    *,
    rival: candidates.Rival | None,
    left_out: int,
) -> candidates.Candidate:
    """Fit, export, score beside champion and dummy."""
    fitted, model, scorer = candidates.fit(case, train, found.chosen, draft)
    moment = cohorts.utc(draft.as_of)
    built = candidates.evaluate(
        case, fitted, model, scorer, train=train, test=test, as_of=moment, rival=rival, left_out=left_out
    )
    return replace(built, unseen=candidates.unseen(fitted, train, case.max_search_rows, case.seed))


@task(cache_policy=NO_CACHE)
def record(outcome: dossier.Outcome, run_id: str) -> registry.Version:
    """Register the version with its verdict and all of its evidence."""
    return versions.record(outcome, run_id)


@flow(name="train", **outbox.hooks())
@servers.named
def train(
    use_case: str = "churn",
    as_of: datetime | None = None,
    reason: str = "manual",
    drill: Drill | None = None,
    release_if_better: bool = False,
) -> dict[str, Any]:
    """Train a candidate on what was known at `as_of` (default: the newest prepare), judge it and register it.

    `drill` plants a known fault, so that a team can see its gates refuse; such a version says so in its tags.
    The reasons drift, degradation and schedule are automatic: they do not train on broken data, keep to the cooldown,
    the budget and the breaker, try a quick fit first, and do what the use case's policy says, which may be to pause
    until a person has answered. Any other reason is a person's own and waits for nothing.
    With `release_if_better` a promoted version is released at once.
    """
    home, log, case = settings().home, get_run_logger(), usecases.load(use_case)
    cause = triggers.cause(reason, history.read(home, use_case))
    decided = decision.decide(case, cause, as_of, home)
    if decided.skipped:
        log.warning("not training %s: %s", use_case, decided.skipped)
        return {"use_case": use_case, "skipped": decided.skipped}
    with locks.held(home, f"train-{use_case}") as alone:
        wait = decision.waits(case, cause, home) if alone else decision.BUSY
        if wait:  # while a person was asked, another training may have started or ended
            log.warning("not training %s: %s", use_case, wait)
            return {"use_case": use_case, "skipped": wait}
        settle(home, use_case)
        begun = {"reason": reason, "drill": drill, "as_of": as_of, **decision.evidence(decided)}
        history.append(home, use_case, policy.STARTED, at=clock.now(home, use_case), **begun)
        with threadpool_limits(1):  # on tables this small, more threads of a numerical library wait for each other
            result = _train(case, as_of, reason, drill, decided, home)
    log.info("version %s: %s. %s", result["version"], result["verdict"], " ".join(result["reasons"]))
    if release_if_better and result["verdict"] == "PROMOTE":
        result["release"] = release(use_case, result["version"], reason=reason)
    return result


def _train(
    case: UseCase, as_of: datetime | None, reason: str, drill: Drill | None, decided: Decision, home: Path
) -> dict[str, Any]:
    rows = decided.examples or examples(case, as_of, home)
    training = arrays.mislabelled(rows.train, case.seed) if drill == "shuffled_labels" else rows.train
    test = rows.test
    if rows.without:
        periods = "; ".join(map(str, rows.without))
        get_run_logger().warning("%d rows of quarantined periods are left out: %s", rows.left_out, periods)
    champion, rival = versions.rival(case, rows.joined, rows.cutoff, home) or (None, None)
    facts = {
        "snapshot": rows.snapshot,
        "as_of": rows.moment.isoformat(),
        "commit": lineage.commit(),
        "lock": lineage.lock_hash(),
        "reason": reason,
        "cause": decided.cause.facts(),
        "prospect": decided.prospect.facts() if decided.prospect else None,
        "seed": case.seed,
        "drill": drill,
        "champion": champion,
        "quarantine": rows.quarantined(),
        "frame": tables.content_hash(rows.joined)[:16],
        "source": snapshots.address(home, case.name, rows.snapshot),
    }
    tags = {**decided.cause.tags(), "kind": "train", "reason": reason}
    experiment = registry.connect(case.name, home)
    with registry.run(experiment, f"train {rows.moment.date()}", tags=tags) as run_id:
        found = find(case, training, experiment)
        draft = dossier.draft(case, run_id, facts)
        built = build(case, training, test, found, draft, rival=rival, left_out=rows.left_out)
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
        "snapshot": rows.snapshot,
        "failed": [r.name for r in verdict.results if not r.passed],
        "dummy": built.dummy,
        "test_cutoff": rows.cutoff.isoformat(),
        "quarantine": [f"{rows.left_out} rows left out", *map(str, rows.without)] if rows.without else [],
    }


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
        cause=facts["cause"],
        prospect=facts["prospect"],
        quarantine=facts["quarantine"],
    )
    create_markdown_artifact(
        key=f"{case.name}-train",
        markdown=f"# {case.title} version {version.number}: "
        f"{verdict.verdict}\n\n{outcome.found.reason}\n\n{gates.as_markdown(verdict)}\n\n{_told(facts['quarantine'])}",
    )


def _told(left_out: dict[str, Any] | None) -> str:
    """What a quarantine left out of the training, for a person to read."""
    if not left_out:
        return "Nothing was in quarantine."
    lines = [f"- {p['id']}: {p['since'][:16]} to {p['until'][:16]}, {p['why']}" for p in left_out["periods"]]
    return f"{left_out['rows_left_out']} rows of quarantined periods were left out:\n" + "\n".join(lines)


if __name__ == "__main__":
    print(train())
