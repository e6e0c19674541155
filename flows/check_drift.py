"""check_drift: journal segments to profiles, profiles against the release's standard, kind, report, event."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock, journal
from bentos.runtime.home import replace
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.manifest import Manifest
from flows import usecases
from flows.alerts import outbox
from flows.retraining import alarms
from flows.runner import task_runner
from flows.settings import settings
from flows.steps.monitoring import (
    calibration,
    drift,
    estimates,
    kinds,
    policy,
    signatures,
    sketches,
    triggers,
    windows,
)
from flows.steps.monitoring.course import Point, course
from flows.steps.pages import page, plots
from flows.steps.pages import report as drift_report
from flows.stores import answers, bentos, history, profiles, promises, transaction, verdicts
from flows.usecases.spec import UseCase

WINDOW = timedelta(days=31)


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What a release is compared with: reference and calibration, what its scores mean, and the quality it promised."""

    reference: str
    known: calibration.Calibration | None
    quality: estimates.Quality | None
    promise: kinds.Promise | None
    measured: kinds.Level | None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A window, the verdict on its columns, and the kind of its drift."""

    window: windows.Window
    verdict: drift.Verdict
    judgement: kinds.Judgement


@task(cache_policy=NO_CACHE)
def profile_segment(
    path: Path, found: Manifest, release: str, reference: str, since: datetime, until: datetime, out: Path
) -> str | None:
    """Counts and whylogs profile of one segment's answers in the window: a pure function of its bytes, written once."""
    records = answers.rows(path, since=since, until=until, release=release)
    if not records:
        return None
    text = json.dumps([r["request_id"] for r in records])
    key = hashlib.sha256(f"window|{release}|{since}|{until}|{reference}|{text}".encode()).hexdigest()[:24]
    counted = out / f"{key}.json"
    if not counted.exists():
        frame = answers.features_frame(records, found.names, found.categorical)
        out.mkdir(parents=True, exist_ok=True)
        replace(out / f"{key}.bin", profiles.profile(frame))
        counts = windows.count(frame, sketches.from_json(reference), answers.identity_frame(records))
        replace(counted, windows.to_json(counts).encode())
    return key


@task(cache_policy=NO_CACHE)
def judge(keys: list[str], standard: Standard, name: str, folder: Path, earlier: list[bool]) -> Checked:
    """Merge the window's parts, compare them with the standard, and say what kind of drift it is."""
    then, rules = sketches.from_json(standard.reference), usecases.load(name).drift
    parts = [windows.from_json((folder / f"{key}.json").read_text()) for key in keys]
    now = windows.merge(parts) if parts else windows.count(answers.features_frame([], []), then)
    if keys:
        whole = profiles.merge([(folder / f"{key}.bin").read_bytes() for key in keys])
        replace(folder / "window.bin", whole)
    verdict = drift.persistent(drift.compare(then, now.sketches, rules, standard.known), earlier)
    estimated = None
    if standard.quality is not None:
        found = estimates.estimate(standard.quality, now.scores, repeats=now.repeats)
        estimated = kinds.level("estimated", found, standard.promise)
    signs = signatures.find(then, now.sketches, now.copies, rules)
    return Checked(window=now, verdict=verdict, judgement=kinds.judge(verdict, signs, estimated, standard.measured))


@task(cache_policy=NO_CACHE)
def report(
    checked: Checked, standard: Standard, path: Path, context: dict[str, Any], points: tuple[Point, ...]
) -> Path:
    """The report's page, one picture per column."""
    verdict = checked.verdict
    then = {s.name: s for s in sketches.from_json(standard.reference)}
    figures = {
        "overview": plots.drift_bars(
            [c.name for c in verdict.columns], [c.psi for c in verdict.columns], verdict.rules.max_psi
        )
    }
    for s in checked.window.sketches:
        if sum(s.counts):
            old, new = sum(then[s.name].counts) or 1, sum(s.counts)
            figures[s.name] = plots.compare_bins(
                s.name, s.categories or s.edges, [c / old for c in then[s.name].counts], [c / new for c in s.counts]
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    made = drift_report.drift_page(verdict, checked.judgement, figures, context, standard.known, points=points)
    replace(path, page.render(made).encode())
    return path


@flow(name="check_drift", task_runner=task_runner(), **outbox.hooks())
def check_drift(
    use_case: str = "churn",
    since: datetime | None = None,
    until: datetime | None = None,
    emit: bool = True,
) -> dict[str, Any]:
    """Compare the champion's answers of a window (default: the last 31 days) with its reference.

    Drift whose kind asks for a training emits, outside the cooldown, one event `bentoflow.drift.detected` per release
    and window, which an automation turns into a `train` run; broken data emit `bentoflow.data_bug.detected` and stop
    automatic trainings. Running it again over the same answers gives the same profiles and kind, and no second event.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    end = utc(until) if until else clock.now(home, use_case) + timedelta(seconds=1)
    start = utc(since) if since else end - WINDOW
    release = transaction.champion_release(home, use_case)
    if release is None:
        log.warning("%s has no champion: nothing to check", use_case)
        return {"use_case": use_case, "state": "no_release"}
    earlier = verdicts.before(home, use_case, release, end)
    standard = _standard(use_case, release, home)
    keys = _profiled(use_case, release, start, end, standard.reference, home)
    checked = judge(keys, standard, use_case, home / "profiles" / use_case, [bool(v["drifted"]) for v in earlier])
    result = _result(case, release, (start, end), checked, keys, earlier)
    lines = history.read(home, use_case)
    result["promised"] = str(standard.promise) if standard.promise else ""
    result["severity"] = triggers.severity(result["kind"], checked.judgement.levels, case.retraining)
    cause = triggers.Cause(trigger="drift", severity=result["severity"], kind=result["kind"])
    result["waits"] = policy.held(lines, end, cause, case.retraining, case.drift.cooldown_days)
    result["unfollowed"] = policy.unfollowed(lines, datetime.now(UTC), case.retraining.notice_minutes)
    stem = verdicts.stem(home, use_case, release, start, end)
    points = course([*verdicts.until(home, use_case, end), result], verdicts.feedback(home, use_case))
    html = report(checked, standard, stem.with_suffix(".html"), _context(case, result), points)
    result |= {"report": str(html)}
    result |= alarms.announce(result, stem.with_suffix(".json"), end, home, emit=emit)
    markdown = f"{result['why']}\n\n{result['unfollowed'] or ''}\n\n{drift.as_markdown(checked.verdict)}"
    create_markdown_artifact(key=f"{use_case}-drift", markdown=markdown)
    if result["unfollowed"]:
        log.error("%s: %s", use_case, result["unfollowed"])
    level = logging.ERROR if result["kind"] == "data_bug" else logging.INFO
    log.log(level, "%s: %d answers, %s. %s", stem.name, result["rows"], result["kind"], result["why"])
    return result


def _result(
    case: UseCase,
    release: str,
    window: tuple[datetime, datetime],
    checked: Checked,
    keys: list[str],
    earlier: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a check found, as it is kept and returned; `asks` says why a training is asked for, "" if none is."""
    verdict, judgement = checked.verdict, checked.judgement
    return {
        "use_case": case.name,
        "state": verdict.state,
        "kind": judgement.kind,
        "why": judgement.why,
        "asks": policy.asks(judgement.kind, [str(v.get("kind")) for v in earlier], case.drift),
        "release": release,
        "since": window[0].isoformat(),
        "until": window[1].isoformat(),
        "rows": verdict.n,
        "reasons": list(verdict.reasons),
        "drifted": [c.name for c in verdict.columns if c.drifted],
        "signatures": [asdict(s) for s in judgement.signatures],
        "quality": {found.how: asdict(found) for found in judgement.levels},
        "psi": {c.name: c.psi for c in verdict.columns},
        "max_psi": case.drift.max_psi,
        "profiles": keys,
    }


def _context(case: UseCase, result: dict[str, Any]) -> dict[str, Any]:
    """What the report's page says of the check beside its verdict."""
    asked = result["waits"] or f"asked for by an event: {result['asks']}"
    return {
        "use case": case.title,
        "release": result["release"],
        "from": f"{datetime.fromisoformat(result['since']):%Y-%m-%d %H:%M}",
        "until": f"{datetime.fromisoformat(result['until']):%Y-%m-%d %H:%M} UTC",
        "promised": result["promised"] or "nothing was measured",
        "training": asked if result["asks"] else "not asked for",
        **({"automation": result["unfollowed"]} if result["unfollowed"] else {}),
        "next": f"bentoflow train --use-case {case.name}" if result["asks"] else "",
    }


def _standard(use_case: str, release: str, home: Path) -> Standard:
    """What was kept with the release; one of before calibrations were kept is calibrated at the check."""
    folder = bentos.model_folder(release)
    promise = promises.promised(release)
    known, quality = folder / calibration.FILE, folder / estimates.FILE
    month = verdicts.measured(home, use_case, release)
    return Standard(
        reference=(folder / manifest.REFERENCE).read_text(),
        known=calibration.from_json(known.read_text()) if known.exists() else None,
        quality=estimates.from_json(quality.read_text()) if quality.exists() else None,
        promise=promise,
        measured=kinds.level("measured", month, promise),
    )


def _profiled(use_case: str, release: str, start: datetime, end: datetime, reference: str, home: Path) -> list[str]:
    """Profile every journal segment; the names of the parts that hold answers of the window."""
    found, out = manifest.load(bentos.model_folder(release)), home / "profiles" / use_case
    constant = [unmapped(x) for x in (found, release, reference, start, end, out)]
    done = profile_segment.map(journal.segments(answers.folder(home, use_case)), *constant).result()
    return sorted(key for key in done if key)


def utc(moment: datetime) -> datetime:
    """A naive time, as a command line or a form gives it, is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


if __name__ == "__main__":
    print(check_drift())
