"""The page of the fraud demo, from what was stored."""

import json
from datetime import timedelta
from os.path import relpath
from pathlib import Path

from flows import usecases
from flows.demos.story import Story
from flows.settings import Settings
from flows.steps.monitoring.course import course
from flows.steps.pages import drift_story, live
from flows.steps.pages import page as pages
from flows.steps.pages.page import Badge, Facts, Figure, Gallery, Links, Page, Section, Table, Text, Timeline
from flows.stores import bentos, history, promises, registry

USE_CASE = "fraud"
WEEK = timedelta(days=7)


def page(chosen: Settings, story: Story) -> Path:
    """The page, from stored evidence: history, reports, registry."""
    facts, home = story.facts, chosen.home
    first = next(line["release"] for line in history.read(home, USE_CASE) if line["action"] == "promoted")
    folder = bentos.model_folder(first)
    live_quality = live.blocks(
        facts["feedback"]["months"],
        promises.promised(first),
        horizon_days=WEEK.days,
        points=course(facts["drift"], facts["feedback"]),
    )
    gates = json.loads((folder / "training.json").read_text())["gates"]["results"]
    drift = tuple(
        (c["day"], c["rows"], Badge(c["kind"], drift_story.KINDS[c["kind"]]), ", ".join(c["drifted"]) or "–", c["why"])
        for c in facts["drift"]
    )
    pictures = registry.pictures(registry.get(USE_CASE, facts["first"]["version"]))
    retraining, refused, answer = facts["retrained"], facts["drill"], facts["explained"]
    sections = (
        Section("What happened", "story", (Timeline(tuple(story.events)),)),
        Section("Live quality", "live", live_quality),
        Section("The gates", "gates", (Table(("Gate", "Why"), tuple((g["name"], g["reason"]) for g in gates)),)),
        Section("Pictures", "pictures", (Gallery(tuple(Figure(png, name) for name, png in pictures.items())),)),
        Section(
            "Drift",
            "drift",
            (
                Table(("Day", "Answers", "Kind", "Columns beyond their limits", "Why"), drift),
                Links(tuple((f"Report of {c['day']}", relpath(c["report"], home / "demo")) for c in facts["drift"])),
            ),
        ),
        Section("Retraining by request", "retraining", (Text(f"{retraining['verdict']}: {retraining['gain']}"),)),
        Section(
            "Refused", "refused", (Facts((("By", ", ".join(refused["failed"])), ("Said", refused["refused"][:200]))),)
        ),
        Section(
            "One answer", "answer", (Facts(tuple((k, str(answer[k])) for k in ("request_id", "score", "decision"))),)
        ),
    )
    lead = Badge(
        "Loop ran", "good", "Every payment, card, terminal and fraud here is SIMULATED; nothing of it happened."
    )
    made = Page(
        title="Bentoflow: the closed loop on simulated payments",
        subtitle=usecases.load(USE_CASE).title,
        sections=sections,
        lead=(lead,),
        footer="Rules of simulation: Le Borgne et al. (2022), Reproducible machine learning for credit card fraud "
        "detection: practical handbook, chapter 3. Days were replayed; what is called injected was injected.",
    )
    path = home / "demo" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pages.render(made))
    return path
