"""check_drift: journal segments to profiles, profiles against the release's standard, kind, report, event."""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from bentos.runtime import clock
from bentos.runtime.home import replace
from bentos.runtime.monitoring import drift, signatures, sketches
from bentos.runtime.scoring import manifest
from flows import servers, usecases
from flows.alerts import outbox
from flows.errors import WindowError
from flows.retraining import alarms
from flows.runner import task_runner
from flows.settings import settings
from flows.steps.monitoring import estimates, kinds, policy, triggers, windows
from flows.steps.monitoring.course import Point, course
from flows.steps.monitoring.segments import Segment
from flows.steps.pages import page, plots
from flows.steps.pages import report as drift_report
from flows.stores import answers, bentos, history, parts, standards, transaction, verdicts
from flows.stores.parts import Subject
from flows.stores.standards import Standard
from flows.usecases.spec import UseCase

WINDOW = timedelta(days=31)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A window, the verdict on its columns, the kind of its drift, and the scores of each declared segment."""

    window: windows.Window
    verdict: drift.Verdict
    judgement: kinds.Judgement
    segments: tuple[Segment, ...] = ()


@task(cache_policy=NO_CACHE)
def profile_segment(path: Path, subject: Subject, since: datetime, until: datetime, out: Path) -> list[str]:
    """Counts and profiles of one segment's answers by hour: a pure function of its bytes, written once."""
    return parts.profile(path, subject, since, until, out)


@task(cache_policy=NO_CACHE)
def merge_day(names: list[str], folder: Path) -> str:
    """One part of a day's: written once, and as long as no part is new, read instead of them."""
    return parts.merged(names, folder)


@task(cache_policy=NO_CACHE)
def judge(names: list[str], standard: Standard, name: str, folder: Path, earlier: list[bool]) -> Checked:
    """Merge the window's parts, compare them with the standard, and say what kind of drift it is."""
    then, rules = sketches.from_json(standard.reference), usecases.load(name).drift
    now = parts.window_of(names, folder) if names else windows.count(answers.features_frame([], []), then)
    apart: tuple[Segment, ...] = ()
    if names:
        profile = parts.profile_of(names, folder)
        replace(folder / "window.bin", profile)
        apart = standard.apart(profile)
    verdict = drift.persistent(drift.compare(then, now.sketches, rules, standard.known), earlier)
    estimated = None
    if standard.quality is not None:
        found = estimates.estimate(standard.quality, now.scores, repeats=now.repeats)
        estimated = kinds.level("estimated", found, standard.promise)
    signs = signatures.find(then, now.sketches, now.copies, rules)
    judgement = kinds.judge(verdict, signs, estimated, standard.measured)
    return Checked(window=now, verdict=verdict, judgement=judgement, segments=apart)


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
    made = drift_report.drift_page(
        verdict, checked.judgement, figures, context, standard.known, points=points, segments=checked.segments
    )
    replace(path, page.render(made).encode())
    return path


@flow(name="check_drift", task_runner=task_runner(), **outbox.hooks())
@servers.named
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
    if start >= end:
        raise WindowError(
            f"no answer lies between {start:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M} UTC: give a later until"
        )
    release = transaction.champion_release(home, use_case)
    if release is None:
        log.warning("%s has no champion: nothing to check", use_case)
        return {"use_case": use_case, "state": "no_release"}
    earlier = verdicts.before(home, use_case, release, end)
    standard = standards.of(use_case, release, home)
    keys = _profiled(use_case, release, start, end, standard.reference, home)
    folder = home / "profiles" / use_case
    checked = judge(_merged(keys, folder), standard, use_case, folder, [bool(v["drifted"]) for v in earlier])
    result = _result(case, release, (start, end), checked, keys, earlier)
    lines = history.read(home, use_case)
    result["promised"] = str(standard.promise) if standard.promise else ""
    result["severity"] = triggers.severity(result["kind"], checked.judgement.levels, case.retraining)
    stem = verdicts.stem(home, use_case, release, start, end)
    cause = triggers.Cause(trigger="drift", severity=result["severity"], kind=result["kind"])
    held = policy.held(lines, end, cause, case.retraining, case.drift.cooldown_days)
    result["waits"] = None if alarms.asked(result, stem.with_suffix(".json"), lines) else held
    result["unfollowed"] = policy.unfollowed(lines, datetime.now(UTC), case.retraining.notice_minutes)
    points = course([*verdicts.until(home, use_case, end), result], verdicts.feedback(home, use_case))
    html = report(checked, standard, stem.with_suffix(".html"), _context(case, result), points)
    result |= {"report": str(html)}
    result |= alarms.announce(result, stem.with_suffix(".json"), end, home, emit=emit)
    parts.sweep(folder, datetime.now(UTC).timestamp())
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
        "segments": [asdict(segment) for segment in checked.segments],
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


def _profiled(use_case: str, release: str, start: datetime, end: datetime, reference: str, home: Path) -> list[str]:
    """The names of the parts that hold answers of the window; only segments that hold something new are read."""
    found, out = manifest.load(bentos.model_folder(release)), home / "profiles" / use_case
    subject = Subject(
        release=release,
        names=tuple(found.names),
        categorical=tuple(found.categorical),
        reference=reference,
        slices=usecases.load(use_case).slices,
    )
    known = {p: parts.known(p, subject, start, end, out) for p in answers.segments(home, use_case)}
    unread = [path for path, names in known.items() if names is None]
    read = profile_segment.map(unread, *[unmapped(x) for x in (subject, start, end, out)]).result() if unread else []
    return sorted(name for names in (*known.values(), *read) for name in names or [])


def _merged(keys: list[str], folder: Path) -> list[str]:
    """The parts with those of each day but the last, to which most new ones are added, merged to one."""
    *whole, last = parts.days(keys) or [[]]
    return [*merge_day.map(whole, unmapped(folder)).result(), *last] if whole else last


def utc(moment: datetime) -> datetime:
    """A naive time, as a command line or a form gives it, is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


if __name__ == "__main__":
    print(check_drift())
