"""The episodes of the fraud demo: some days of simulated payments, answered, watched and labelled a week later."""

import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pandas as pd

from flows import usecases
from flows.check_drift import check_drift
from flows.demos.evidence import USE_CASE, WEEK, page
from flows.demos.story import Story, drill
from flows.errors import BentoflowError
from flows.explain import explain
from flows.feedback import feedback
from flows.prepare import prepare
from flows.release import release
from flows.settings import Settings
from flows.steps.pages import drift_story, live
from flows.stores import registry, tables
from flows.targets import local
from flows.train import train

if TYPE_CHECKING:
    from flows.demos.loop import Api

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND, INJECTED = START + WEEK, START + WEEK + DAY
LABELLED = SECOND + WEEK + DAY  # the payments of both replayed days have their labels
TOKEN = "BENTOFLOW_ADMIN_TOKEN"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def loop(chosen: Settings, story: Story, payments: int, api: "Api") -> Path:
    """Release, two replayed days, a retraining by request, an injected fault, a drill, labels, the page."""
    os.environ[TOKEN] = secrets.token_hex(16)  # the service that the release starts inherits it
    try:
        first_release(chosen, story)
        replayed(chosen, story, START, payments)
        known(story, SECOND)
        replayed(chosen, story, SECOND, payments)
        api.deployed.result(timeout=240)
        retrained(chosen, story, api.url)
        known(story, INJECTED)
        replayed(chosen, story, INJECTED, payments, factor=100.0)
        drill(story)
        labelled(story)
    finally:
        os.environ.pop(TOKEN, None)
    found = page(chosen, story)
    from flows.demos.loop import mark

    mark(chosen.home, "done", USE_CASE)
    story.say(f"\nThe page: {found}\nGo on:    bentoflow up --use-case {USE_CASE}, bentoflow status")
    return found


def known(story: Story, moment: datetime) -> None:
    """Prepare what is known at a midnight; the online store and the clock move there."""
    done = prepare(USE_CASE, moment)
    story.tell(
        "prepare",
        f"{done['rows']:,} simulated payments known, snapshot {done['snapshot']}, {done['partitions_changed']} new "
        "days of card and terminal features",
        when=moment,
    )


def first_release(chosen: Settings, story: Story) -> None:
    """Train on what was known at the first of March, and release."""
    known(story, START)
    trained = train(USE_CASE, START, reason="first version")
    story.facts["first"] = trained
    auc, precision, recall = (live.interval(trained["metrics"][m]) for m in ("roc_auc", "precision", "recall"))
    story.tell(
        "train",
        f"version {trained['version']}: {trained['verdict']}, ROC AUC {auc}; at the cheapest threshold precision "
        f"{precision}, recall {recall}. {trained['choice']}",
        when=START,
        kind="good" if trained["verdict"] == "PROMOTE" else "bad",
    )
    released = release(USE_CASE, reason="first version")
    url = local.address(chosen, USE_CASE)
    local.wait_for(url, released["release"])
    story.tell("release", f"{released['release']} answers at {url}", when=START, kind="good")


def of_day(day: datetime, payments: int, factor: float) -> list[dict[str, Any]]:
    """Requests for the payments of a day, the same ones in every run, amounts times `factor`."""
    case = usecases.load(USE_CASE)
    log = tables.read(case.source)
    rows = log[(log[case.time] >= day) & (log[case.time] < day + DAY)].head(payments)
    return [
        {
            "card_id": int(row.card_id),
            "terminal_id": int(row.terminal_id),
            "amount": round(float(row.amount) * factor, 2),
            "time": pd.Timestamp(row.time).isoformat(),
        }
        for row in rows.itertuples()
    ]


def replayed(chosen: Settings, story: Story, day: datetime, payments: int, *, factor: float = 1.0) -> None:
    """Ask the service about a day's payments over HTTP, then check drift over the day."""
    asked = of_day(day, payments, factor)
    response = httpx.post(f"{local.address(chosen, USE_CASE)}/predict/batch", json=asked, timeout=60)
    if response.status_code not in {200, 207}:
        raise BentoflowError(f"the service answered {response.status_code}: {response.text[:300]}")
    answers = [answer for answer in response.json() if "risk" in answer]
    counts = pd.Series([answer["risk"] for answer in answers]).value_counts()
    injected = factor != 1.0
    story.tell(
        "injected" if injected else "replay",
        ("amounts in cents by a faulty client: " if injected else "")
        + f"{len(answers):,} of {len(asked):,} payments answered by {answers[0]['release']}, "
        + ", ".join(f"{counts.get(risk, 0)} {risk}" for risk in usecases.load(USE_CASE).risks)
        + (f"; {len(asked) - len(answers)} refused, above the range of an amount" if injected else ""),
        when=day,
        kind="warn" if injected else "info",
    )
    if not injected:
        story.facts["example"] = answers[-1]
    checked = check_drift(USE_CASE, since=day, until=day + DAY)
    story.facts.setdefault("drift", []).append({**checked, "day": f"{day:%Y-%m-%d}", "injected": injected})
    story.tell(
        "drift",
        f"{checked['kind']}: {checked['why']} Now: {drift_story.action(checked)}",
        when=day,
        kind=drift_story.KINDS[checked["kind"]],
    )


def retrained(chosen: Settings, story: Story, api: str, *, seconds: float = 240) -> None:
    """Ask the service for a training, with its token, and wait until Prefect's run has ended."""
    url = f"{local.address(chosen, USE_CASE)}/retrain"
    without = httpx.post(url, json={"reason": "demo"}, timeout=20)
    given = {"authorization": f"Bearer {os.environ[TOKEN]}"}
    answer = httpx.post(url, json={"reason": "demo"}, headers=given, timeout=20)
    if (without.status_code, answer.status_code) != (401, 202):
        raise BentoflowError(f"/retrain answered {without.status_code} and {answer.status_code}: {answer.text[:300]}")
    asked, deadline, state = answer.json(), time.monotonic() + seconds, ""
    while state not in ENDED:
        if time.monotonic() > deadline:
            raise BentoflowError(f"run {asked['name']} is {state} after {seconds:.0f} s; see worker.log")
        time.sleep(0.5)
        state = httpx.get(f"{api}/flow_runs/{asked['flow_run_id']}", timeout=20).json()["state_type"]
    newest = registry.versions(USE_CASE)[0]
    if state != "COMPLETED" or newest.tags.get("reason") != "demo":
        raise BentoflowError(f"run {asked['name']} ended {state} and made no version; see worker.log")
    if "champion" in newest.aliases:
        local.wait_for(local.address(chosen, USE_CASE), newest.tags["release"])
    gain = next((g["reason"] for g in registry.gates(newest) if g["name"] == "champion_gain"), "")
    story.facts["retrained"] = {"version": newest.number, "verdict": newest.verdict, "gain": gain, **asked}
    story.tell(
        "retrain",
        f"POST /retrain: 401 without the token, 202 with it; its run '{asked['name']}' made version {newest.number}: "
        f"{newest.verdict}. {gain}",
        when=SECOND,
        kind="good",
    )


def labelled(story: Story) -> None:
    """A week later the labels are in: live quality, and one answer explained."""
    known(story, LABELLED)
    measured = feedback(USE_CASE, LABELLED)
    story.facts["feedback"] = measured
    quality = ", ".join(
        f"ROC AUC {live.interval(m['roc_auc'])}, precision {live.interval(m['precision'])}, recall "
        f"{live.interval(m['recall'])}"
        for m in measured["months"]
    )
    story.tell(
        "feedback",
        f"{measured['labels']:,} of {measured['answers']:,} answers have a label; live {quality}",
        when=LABELLED,
        kind="good",
    )
    found = explain(story.facts["example"]["request_id"], USE_CASE)
    story.facts["explained"] = found
    story.tell(
        "explain",
        f"request {found['request_id'][:8]}… came from {found['release']}, snapshot {found['snapshot']}: scored again "
        f"{'equal' if found['equal'] else 'NOT EQUAL'}",
        kind="good" if found["equal"] else "bad",
    )
