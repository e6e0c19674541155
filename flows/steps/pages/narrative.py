"""The demo's page: what the loop did, section by section, from the evidence that it stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.steps.monitoring.course import course
from flows.steps.monitoring.kinds import Promise
from flows.steps.pages import drift_story, live
from flows.steps.pages.page import (
    Badge,
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Gallery,
    Kind,
    Page,
    Section,
    Table,
    Text,
    Timeline,
)

KINDS: dict[str, Kind] = {"PROMOTE": "good", "HOLD": "warn", "REJECT": "bad"}
SHOWN = ("roc_auc", "average_precision", "accuracy", "precision", "recall", "brier_skill", "calibration_error")
COMMANDS = """make up                                   # Prefect, a worker, MLflow and the service
bentoflow status
bentoflow explain {request}
bentoflow reproduce {version}
mlflow ui
prefect deploy --all
feast -c feature_repo apply
bentoml serve
curl -s localhost:3000/predict -H 'content-type: application/json' -d '{{"user_id": 17}}'"""


def page(facts: Mapping[str, Any], home: Path) -> Page:
    """The whole page; `facts` is what the chapters kept."""
    measured_first = {k: facts["first"]["metrics"]["roc_auc"][k] for k in ("value", "low", "high")}
    promise = Promise(**measured_first, since=facts["first"]["test_cutoff"][:10])
    months = facts.get("feedback", {}).get("months", [])
    points = course(facts["drift"], facts.get("feedback", {}))
    promoted = [r for r in facts.get("retrained", []) if r["verdict"] == "PROMOTE"]
    measured = ", ".join(f"{m['roc_auc']['value']:.3f}" for m in months) or "not measured"
    return Page(
        title="Bentoflow: the closed loop on real purchases",
        subtitle="Customer churn on the CDNOW purchase log, 1997 to 1998: 69,659 purchases of 23,570 customers",
        lead=(
            Badge(
                "Loop closed" if promoted and facts.get("rollback") else "Loop ran",
                "good",
                f"Trained as of January 1998, live ROC AUC {measured}; {len(facts['drift'])} drift checks, "
                f"{len(facts.get('retrained', []))} retraining by event, {len(promoted)} better model rolled out, "
                "one worse candidate refused, one rollback.",
            ),
        ),
        sections=(
            Section("What happened", "story", (Timeline(facts["events"]),)),
            Section(
                "Live quality, once labels were in",
                "live",
                live.blocks(months, promise, horizon_days=90, points=points),
            ),
            Section("The first version and its gates", "gates", _gates(facts)),
            Section("The model in pictures", "pictures", _pictures(facts["pictures"])),
            Section("Drift, month by month", "drift", drift_story.blocks(facts["drift"], home)),
            Section("The retraining", "retraining", _retraining(facts)),
            Section("The candidate that was refused", "refused", _refused(facts)),
            Section("One answer, explained", "answer", _answer(facts)),
            Section("The history", "history", (_history(facts["history"]),)),
            Section(
                "Go on from here",
                "next",
                (Code(COMMANDS.format(request=facts["example"]["request_id"], version=facts["first"]["version"])),),
            ),
        ),
        footer="Fader and Hardie (2001), Forecasting repeat sales at CDNOW, Interfaces 31(3). Months were replayed; "
        "what is called injected was injected.",
    )


def _gates(facts: Mapping[str, Any]) -> tuple[Block, ...]:
    first, training = facts["first"], facts["training"]
    found = facts["manifest"]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (r["name"], Badge("passed", "good") if r["passed"] else Badge(r["on_fail"], "bad"), r["reason"])
        for r in training["gates"]["results"]
    )
    quality: tuple[tuple[Cell, ...], ...] = tuple(
        (name, live.interval(first["metrics"][name]), f"{first['dummy'][name]:.3f}")
        for name in SHOWN
        if name in first["metrics"]
    )
    return (
        Badge(first["verdict"], KINDS[first["verdict"]], training["choice"] + "."),
        Facts(
            (
                ("Version", first["version"]),
                ("Snapshot", found.snapshot),
                ("Commit", found.commit[:12]),
                ("Locked dependencies", found.lock),
                ("Test cut-off", first["test_cutoff"][:10]),
                ("Threshold", f"{found.threshold:.3f}"),
            )
        ),
        Table(
            ("Metric", "Held out, with interval", "Dummy"),
            quality,
            "Held-out cut-off; a dummy that answers the training base rate",
        ),
        Table(("Gate", "Result", "Why"), rows, "Every gate with its reason"),
    )


def _pictures(pictures: Mapping[str, bytes]) -> tuple[Block, ...]:
    return (
        Gallery(
            tuple(Figure(png, f"Plot: {name.removesuffix('.png').replace('_', ' ')}") for name, png in pictures.items())
        ),
    )


def _retraining(facts: Mapping[str, Any]) -> tuple[Block, ...]:
    found = facts.get("retrained", [])
    if not found:
        return (Text("No drift verdict asked for a training."),)
    blocks: list[Block] = []
    for r in found:
        gates = {g["name"]: g for g in r["gates"]}
        compared = [gates[name]["reason"] for name in ("champion_not_worse", "champion_gain") if name in gates]
        blocks += [
            Badge(
                r["verdict"],
                KINDS[r["verdict"]],
                f"Version {r['version']} as of {r['moment']}, by the run {r['run']} that "
                "Prefect's automation started from the drift event.",
            ),
            Text("\n\n".join(compared)),
            Table(
                ("Metric", "New version, held out"),
                tuple((name, f"{r['metrics'][name]:.3f}") for name in SHOWN if name in r["metrics"]),
            ),
        ]
    return tuple(blocks)


def _refused(facts: Mapping[str, Any]) -> tuple[Block, ...]:
    drill = facts["drill"]
    failed = [reason.split(": ", 1) for reason in drill["reasons"]]
    return (
        Badge(
            drill["verdict"],
            KINDS[drill["verdict"]],
            f"Version {drill['version']} was trained on shuffled labels, on purpose.",
        ),
        Text(f"The attempt to release it: {drill['refused'].partition('. ')[0]}."),
        Table(("Gate", "Why it refused"), tuple((gate, why) for gate, why in failed)),
    )


def _answer(facts: Mapping[str, Any]) -> tuple[Block, ...]:
    e = facts["explained"]
    return (
        Badge(
            "Equal" if e["equal"] else "Not equal",
            "good" if e["equal"] else "bad",
            f"Scored again from its journalled features: {e['score_again']:.6f}.",
        ),
        Facts(
            (
                ("Request", e["request_id"]),
                ("Customer", e["entity"]),
                ("Time", e["time"]),
                ("Score", f"{e['score']:.6f}"),
                ("Decision", f"{e['decision']} at threshold {e['threshold']:.3f}"),
                ("Release", e["release"]),
                ("Snapshot", e["snapshot"]),
                ("Commit", e["commit"][:12]),
                ("MLflow run", e["run_id"]),
            )
        ),
        Table(
            ("Feature", "Value"),
            tuple(
                (k, "missing" if v is None else v if isinstance(v, str) else f"{v:.4g}")
                for k, v in e["features"].items()
            ),
        ),
        Facts((("Answers in the journal", facts["journal"]), ("Segments", facts["segments"]))),
    )


def _history(lines: list[dict[str, Any]]) -> Table:
    return Table(
        ("When", "What", "Version or release", "Why"),
        tuple(
            (
                line["at"][:10],
                line["action"],
                str(line.get("version") or line.get("release") or "–"),
                str(line.get("reason") or line.get("waits") or "–"),
            )
            for line in lines
        ),
    )
