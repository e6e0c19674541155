"""feedback: labels that arrive later, joined to the journal; live quality per month once enough are in."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import journal
from bentos.runtime.home import replace
from bentos.runtime.rollouts import rollout
from flows import servers, usecases
from flows.alerts import outbox
from flows.errors import StoreError
from flows.retraining import degradation
from flows.runner import task_runner
from flows.settings import settings
from flows.steps.data import cohorts, quarantine
from flows.steps.monitoring import kinds
from flows.steps.monitoring.course import course
from flows.steps.pages import live, page
from flows.steps.training import metrics
from flows.stores import answers, history, outcomes, prepared, promises, registry, snapshots, transaction
from flows.stores import labels as label_store
from flows.stores import verdicts as kept
from flows.usecases.spec import UseCase

RANKED = ("roc_auc", "average_precision", "brier_skill", "calibration_error")
DECIDED = ("accuracy", "precision", "recall")
MIN_LABELS = 200
NEARLY = 0.95  # of a window's answers must have their label before the window is measured


def from_events(name: str, frame: pd.DataFrame, snapshot: str, as_of: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Labels, by entity and time, of the answers whose horizon has passed by `as_of`, from the snapshot's events.

    Answers to rows that named no entity have none: only a label by request id finds them.
    """
    case = usecases.load(name)
    mature = frame[(frame["time"] + pd.Timedelta(days=case.horizon_days) <= as_of) & frame["entity"].notna()]
    mature = mature.assign(entity=mature["entity"].infer_objects())
    if mature.empty:
        return mature.assign(label=pd.Series(dtype="int64"))
    events = snapshots.read(home, name, snapshot)
    if case.build_labels is None:
        return of_events(case, mature, events)
    parts = [
        group.assign(label=case.build_labels(events, group["entity"], cohorts.utc(str(moment))).to_numpy())
        for moment, group in mature.groupby(mature["time"].dt.floor("D"))
    ]
    return pd.concat(parts, ignore_index=True)


def of_events(case: UseCase, answered: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """The label of the very event that each answer was about: of the same entities, at the same time."""
    on = [*case.keys, case.time]
    known = events[[*on, case.label]].dropna(subset=[case.label]).drop_duplicates(on)
    known = known.rename(columns={case.entity: "entity", case.time: "time", case.label: "label"})
    known["time"] = known["time"].astype(answered["time"].dtype)
    found = answered.merge(known, on=["entity", "time", *case.keys[1:]], how="inner", validate="m:1")
    return found.assign(label=found["label"].astype("int64"))


@task(cache_policy=NO_CACHE)
def collect(path: Path) -> pd.DataFrame:
    """The answers of one journal segment: request, time, entities (None if the row named none), score, release, arm."""
    records = [r for r in journal.read(path) if not r.get("smoke")]
    entities = [r["entity"] for r in records]
    return pd.DataFrame(
        {
            "request_id": [r["request_id"] for r in records],
            "time": pd.to_datetime([r["time"] for r in records], utc=True, format="ISO8601"),
            "entity": pd.Series(entities, dtype=object if None in entities else None),  # floats would round keys
            "score": np.array([r["score"] for r in records], dtype=np.float64),
            "threshold": np.array([r["threshold"] for r in records], dtype=np.float64),
            "release": [r["release"] for r in records],
            "arm": [r["arm"] for r in records],
            "state": [r["state"] for r in records],
            **{key: [r["others"][key] for r in records] for key in (records[0].get("others", {}) if records else ())},
        }
    )


@task(cache_policy=NO_CACHE)
def join(frame: pd.DataFrame, name: str, labels: str | None, as_of: pd.Timestamp, home: Path) -> pd.DataFrame:
    """Labels by request id from a parquet table, else by entity and time from the prepared events."""
    if labels is not None:
        return frame.merge(label_store.table(labels), on="request_id", how="inner", validate="1:1")
    return from_events(name, frame, prepared.latest(home, name)[0], as_of, home)


def groups(entities: pd.Series) -> np.ndarray:
    """Which rows are of one entity, by number; a row that named none is alone."""
    codes, known = pd.factorize(entities, sort=True)
    nameless = codes < 0
    codes[nameless] = len(known) + np.arange(nameless.sum())
    return codes


def unasked(frame: pd.DataFrame) -> pd.DataFrame:
    """What somebody got as an answer unasked: the champion's and the canaries' rows, no shadow's, no staged arm's."""
    return frame[frame["arm"].map(rollout.kind).isin([rollout.CHAMPION, rollout.CANARY])]


@task(cache_policy=NO_CACHE)
def measure(month: str, labelled: pd.DataFrame, name: str, min_labels: int) -> dict[str, Any] | None:
    """Live quality of one month with intervals; None while there are too few labels or only one class."""
    case = usecases.load(name)
    rows = labelled[labelled["time"].dt.strftime("%Y-%m") == month]
    if len(rows) < min_labels or rows["label"].nunique() < 2:
        return None
    label, entities = rows["label"].to_numpy(), groups(rows["entity"])
    options = {"n": case.gates.bootstrap, "confidence": case.gates.confidence, "seed": case.seed, "groups": entities}
    # releases of a month may have different thresholds, so what counts is the decision that each answer carried
    decided = (rows["score"] >= rows["threshold"]).to_numpy(dtype=np.float64)
    found = {
        **metrics.bootstrap(label, rows["score"].to_numpy(), 0.5, metrics=RANKED, **options),
        **metrics.bootstrap(label, decided, 0.5, metrics=DECIDED, **options),
    }
    return {
        "month": month,
        "labels": len(rows),
        "base_rate": float(rows["label"].mean()),
        "releases": sorted(rows["release"].unique()),
        **{k: {"value": v.value, "low": v.low, "high": v.high} for k, v in found.items()},
    }


def measured_window(verdict: dict[str, Any], answered: pd.DataFrame, labelled: pd.DataFrame) -> dict[str, Any] | None:
    """ROC AUC on the very rows of a drift check's window; None until nearly all of them have their label."""
    start, end = (cohorts.utc(pd.Timestamp(verdict[name])) for name in ("since", "until"))
    asked, rows = (
        frame[(frame["release"] == verdict["release"]) & (frame["time"] >= start) & (frame["time"] < end)]
        for frame in (answered, labelled)
    )
    if len(rows) < NEARLY * len(asked) or len(rows) == 0 or rows["label"].nunique() < 2:
        return None
    found = metrics.classification(rows["label"].to_numpy(), rows["score"].to_numpy(), 0.5)[kinds.METRIC]
    return {**{name: verdict[name] for name in ("release", "since", "until")}, "labels": len(rows), kinds.METRIC: found}


@flow(name="feedback", task_runner=task_runner(), **outbox.hooks())
@servers.named
def feedback(
    use_case: str = "churn",
    as_of: datetime | None = None,
    labels: str | None = None,
    min_labels: int = MIN_LABELS,
) -> dict[str, Any]:
    """Join mature labels to the journal and measure live quality per month and arm; to MLflow, a report, an artifact.

    `labels` names a parquet table with `request_id` and `label`; without it labels come from the prepared events.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    newest = prepared.latest(home, use_case)[1]  # labels after it are not known, whatever the clock says
    moment = min(cohorts.utc(pd.Timestamp(as_of)), newest) if as_of else newest
    parts = [p for p in collect.map(answers.segments(home, use_case)).result() if len(p)]
    if not parts:
        log.warning("the journal of %s is empty: nothing to measure", use_case)
        return {"use_case": use_case, "months": []}
    everything = pd.concat(parts, ignore_index=True)
    everything = unasked(everything)
    labelled = join(everything, use_case, labels, moment, home)
    periods = quarantine.answered(history.read(home, use_case))
    broken = quarantine.inside(labelled["time"], periods)
    known, labelled = len(labelled), labelled[~broken]
    measured = {
        arm: _months(labelled[labelled["arm"] == arm], use_case, min_labels) for arm in sorted(labelled["arm"].unique())
    }
    result = {
        "use_case": use_case,
        "as_of": moment.isoformat(),
        "answers": len(everything),
        "labels": known,
        "quarantined": {"labels": int(broken.sum()), "periods": [str(period) for period in periods]},
        "months": measured.get(rollout.CHAMPION, []),
        "canaries": {arm: months for arm, months in measured.items() if arm != rollout.CHAMPION},
    }
    verdicts = kept.until(home, use_case, moment.to_pydatetime())
    result["windows"] = [w for v in verdicts if (w := measured_window(v, everything, labelled))]
    result["profiles"] = outcomes.profile(labelled, home / "profiles" / use_case / "labels")
    result["degraded"] = degradation.announce(case, result["months"], moment.to_pydatetime(), home)
    replace(home / "feedback" / f"{use_case}.json", json.dumps(result, indent=1).encode())
    with registry.run(registry.connect(use_case, home), f"feedback {moment.date()}", tags={"kind": "feedback"}):
        registry.log(
            metrics={f"live_{m['month']}_{k}": m[k]["value"] for m in result["months"] for k in RANKED + DECIDED}
        )
    history.append(
        home,
        use_case,
        "feedback",
        at=moment.to_pydatetime(),
        labels=known,
        quarantined=int(broken.sum()),
        degraded=(result["degraded"] or {}).get("severity"),
        months={m["month"]: round(m["roc_auc"]["value"], 4) for m in result["months"]},
    )
    promise, points = promises.promised(transaction.champion_release(home, use_case)), course(verdicts, result)
    html = live.page(case.title, result, promise, horizon_days=case.horizon_days, points=points)
    replace(home / "reports" / use_case / f"feedback-{moment:%Y-%m-%d}.html", page.render(html).encode())
    create_markdown_artifact(key=f"{use_case}-feedback", markdown=live.as_markdown(case.title, result))
    log.info("%d of %d answers have a mature label, %d in quarantine", known, len(everything), int(broken.sum()))
    return result


def _months(labelled: pd.DataFrame, use_case: str, min_labels: int) -> list[dict[str, Any]]:
    """Each month of one arm's labelled answers that has enough of them."""
    months = sorted(labelled["time"].dt.strftime("%Y-%m").unique())
    measured = measure.map(months, unmapped(labelled), unmapped(use_case), unmapped(min_labels)).result()
    return [{**month, "promised": _promised(month["releases"])} for month in measured if month]


def _promised(releases: list[str]) -> float | None:
    """What the month's release promised; None where several answered, or it is no longer stored."""
    try:
        found = promises.promised(releases[0]) if len(releases) == 1 else None
    except StoreError:
        return None
    return found.value if found else None


if __name__ == "__main__":
    print(feedback())
