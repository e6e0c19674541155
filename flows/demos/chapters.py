"""The chapters of the demo: each runs real flows, then says in one line what happened and where to look."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from bentos.runtime import clock, journal
from bentos.runtime.scoring import manifest
from flows.check_drift import check_drift
from flows.demos.story import Story
from flows.errors import BentoflowError, ContractError
from flows.explain import explain
from flows.feedback import feedback
from flows.prepare import prepare
from flows.release import release
from flows.rollback import rollback
from flows.settings import Settings
from flows.steps.pages import drift_story, narrative
from flows.steps.pages import page as pages
from flows.stores import answers, bentos, features, history, registry
from flows.targets import local
from flows.train import train

USE_CASE = "churn"


def prepare_month(story: Story, moment: datetime) -> None:
    """Prepare what is known at a moment; the online store and the clock move there."""
    done = prepare(USE_CASE, moment)
    story.tell(
        "prepare",
        f"{done['rows']:,} purchases known, snapshot {done['snapshot']}, "
        f"{done['partitions_changed']} new feature partitions, {done['quarantined']} rows quarantined",
        when=moment,
    )


def first_release(chosen: Settings, story: Story) -> None:
    """Train on what was known in January 1998, and release."""
    from flows.demos.loop import START

    prepare_month(story, START)
    trained = train(USE_CASE, START, reason="first version")
    story.facts["first"] = trained
    auc = trained["metrics"]["roc_auc"]
    story.tell(
        "train",
        f"version {trained['version']}: {trained['verdict']}, ROC AUC {auc['value']:.3f} "
        f"({auc['low']:.3f} to {auc['high']:.3f}) on {trained['test_cutoff'][:10]}. {trained['choice']}",
        when=START,
        kind="good" if trained["verdict"] == "PROMOTE" else "bad",
    )
    released = release(USE_CASE, reason="first version")
    url = local.address(chosen, USE_CASE)
    local.wait_for(url, released["release"])
    story.tell(
        "release",
        f"{released['release']} answers at {url} after its golden rows were answered exactly",
        when=START,
        kind="good",
    )


def month(chosen: Settings, story: Story, moment: datetime, customers: int, *, note: str = "") -> dict[str, Any]:
    """Replay customers through HTTP, then check drift over the month."""
    from flows.demos.loop import replay, sample

    answered = replay(local.address(chosen, USE_CASE), sample(chosen.home, moment, customers))
    high = sum(a["risk"] == "High" for a in answered) / len(answered)
    story.facts["example"] = answered[0]
    story.tell(
        "replay",
        f"{len(answered):,} customers answered by {answered[0]['release']}, {high:.0%} at high risk{note}",
        when=moment,
    )
    checked = check_drift(USE_CASE, since=moment - timedelta(days=1), until=moment + timedelta(days=1))
    story.facts.setdefault("drift", []).append({**checked, "month": f"{moment:%Y-%m}", "injected": bool(note)})
    story.tell(
        "drift",
        f"{checked['kind']}: {checked['why']} Now: {drift_story.action(checked)}",
        when=moment,
        kind=drift_story.KINDS[checked["kind"]],
    )
    return checked


def retrained(chosen: Settings, story: Story, moment: datetime, run: dict[str, Any], customers: int) -> None:
    """What the training did that the automation started, read from the registry."""
    newest = registry.versions(USE_CASE)[0]
    if newest.tags.get("reason") != "drift":
        raise BentoflowError(f"the event's run {run['name']} ({run['state_name']}) made no version; see worker.log")
    with_metrics = registry.metrics(newest)
    story.facts.setdefault("retrained", []).append(
        {
            "version": newest.number,
            "verdict": newest.verdict,
            "moment": f"{moment:%Y-%m-%d}",
            "metrics": with_metrics,
            "reasons": json.loads(newest.tags.get("reasons", "[]")),
            "run": run["name"],
            "state": run["state_name"],
            "gates": registry.gates(newest),
        }
    )
    gain = next((g for g in registry.gates(newest) if g["name"] == "champion_gain"), {})
    story.tell(
        "retrain",
        f"the event's run '{run['name']}' {run['state_name'].lower()}: version {newest.number}, "
        f"{newest.verdict}. {gain.get('reason', '')}",
        when=moment,
        kind="good" if newest.verdict == "PROMOTE" else "warn",
    )
    if "champion" in newest.aliases:
        again = month(chosen, story, moment, customers // 2)
        story.facts["second"] = again["release"]
        story.tell("rollout", f"{again['release']} was released by that run and answers now", when=moment, kind="good")


def injected(chosen: Settings, story: Story, moment: datetime, customers: int) -> None:
    """INJECTED: amounts in cents, first in the feed (prepare stops), then in the online store behind it (drift)."""
    prepare_month(story, moment)
    feed = chosen.home / "demo" / "feed_in_cents.csv"
    feed.parent.mkdir(parents=True, exist_ok=True)
    in_cents(chosen.home).to_csv(feed, index=False)
    try:
        prepare(USE_CASE, moment, {"url": str(feed), "format": "csv"})
    except ContractError as error:
        story.tell(
            "injected", f"a feed with amounts in cents: prepare stopped. {error}"[:400], when=moment, kind="warn"
        )
    else:
        raise AssertionError("the feed in cents passed the contract")
    corrupt_online(chosen.home, moment)
    story.tell(
        "injected", "an upstream job overwrites the online features with amounts in cents", when=moment, kind="warn"
    )
    checked = month(chosen, story, moment, customers, note=" (INJECTED: amounts in cents)")
    story.tell("page", f"the report shows which columns: {Path(checked['report']).name}", when=moment)
    prepare_online_again(chosen.home, moment)


def in_cents(home: Path) -> pd.DataFrame:
    """The newest snapshot as a feed whose amounts are in cents."""
    latest = json.loads((home / "snapshots" / USE_CASE / "latest.json").read_text())["snapshot"]
    frame = pd.read_parquet(home / "snapshots" / USE_CASE / f"{latest}.parquet")
    return frame.assign(amount=frame["amount"] * 100, purchased_at=frame["purchased_at"].dt.strftime("%Y%m%d"))


def _online_rows(home: Path, moment: datetime) -> pd.DataFrame:
    return pd.read_parquet(home / "features" / USE_CASE / f"as_of={moment:%Y-%m-%d}.parquet")


def corrupt_online(home: Path, moment: datetime) -> None:
    """Write the month's features with amounts in cents into the online store."""
    rows = _online_rows(home, moment)
    money = ["avg_purchase_amount", "spend_90d"]
    features.write_online(features.open_store(home), "churn_purchase_behaviour", rows.assign(**(rows[money] * 100)))


def prepare_online_again(home: Path, moment: datetime) -> None:
    """Put the right features back."""
    features.write_online(features.open_store(home), "churn_purchase_behaviour", _online_rows(home, moment))


def matured(story: Story, moment: datetime) -> None:
    """Three months later the labels are in: live quality per month."""
    prepare_month(story, moment)
    measured = feedback(USE_CASE, moment)
    story.facts["feedback"] = measured
    months = ", ".join(f"{m['month']} {m['roc_auc']['value']:.3f}" for m in measured["months"])
    story.tell(
        "feedback",
        f"{measured['labels']:,} of {measured['answers']:,} answers have a mature label; live ROC AUC {months}",
        when=moment,
        kind="good",
    )


def rolled_back(chosen: Settings, story: Story) -> None:
    """Back to the first release; an answer of the second one still explains itself."""
    asked = story.facts["example"]["request_id"]
    if len(registry.aliases(USE_CASE)) > 1:
        done = rollback(USE_CASE, reason="demo")
        local.wait_for(local.address(chosen, USE_CASE), done["release"])
        one = httpx.post(f"{local.address(chosen, USE_CASE)}/predict", json={"user_id": 17}, timeout=10).json()
        story.facts["rollback"] = {**done, "answered_by": one["release"]}
        story.tell(
            "rollback",
            f"one command: {one['release']} answers again, threshold, features and reference with it",
            kind="good" if one["release"] == done["release"] else "bad",
        )
    else:
        story.tell("rollback", "no second release was promoted, so there is nothing to go back from", kind="warn")
    found = explain(asked, USE_CASE)
    story.facts["explained"] = found
    story.tell(
        "explain",
        f"request {asked[:8]}… came from {found['release']}, snapshot {found['snapshot']}: scored again "
        f"{'equal' if found['equal'] else 'NOT EQUAL'}",
        kind="good" if found["equal"] else "bad",
    )


def page(chosen: Settings, story: Story) -> Path:
    """The page, from stored evidence: history, journal, reports, registry."""
    home = chosen.home
    lines = history.read(home, USE_CASE)
    first = next(line["release"] for line in lines if line["action"] == "promoted")
    facts = {
        **story.facts,
        "history": lines,
        "events": tuple(story.events),
        "journal": sum(1 for _ in journal.scan(answers.folder(home, USE_CASE))),
        "segments": len(journal.segments(answers.folder(home, USE_CASE))),
        "training": json.loads((bentos.model_folder(first) / "training.json").read_text()),
        "manifest": manifest.load(bentos.model_folder(first)),
        "clock": clock.now(home, USE_CASE).isoformat(),
        "pictures": registry.pictures(registry.get(USE_CASE, story.facts["first"]["version"])),
    }
    path = home / "demo" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pages.render(narrative.page(facts, home)))
    return path
