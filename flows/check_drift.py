"""check_drift: journal segments to profiles, profiles against the release's reference, verdict, report, event."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import flow, get_run_logger, task, unmapped
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from bentos.runtime import clock, journal
from bentos.runtime.home import replace
from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.manifest import Manifest
from flows import usecases
from flows.runner import task_runner
from flows.settings import settings
from flows.steps import drift, measures, page, plots, policy, sketches
from flows.steps import report as drift_report
from flows.stores import answers, bentos, history, profiles, transaction

Compared = tuple[drift.Verdict, tuple[measures.Sketch, ...]]  # and the window's sketches
EVENT = "bentoflow.drift.detected"
WINDOW = timedelta(days=31)


@task(cache_policy=NO_CACHE)
def profile_segment(
    path: Path, found: Manifest, release: str, reference: str, since: datetime, until: datetime, out: Path
) -> str | None:
    """Counts and whylogs profile of one segment's answers in the window: a pure function of its bytes, written once."""
    records = answers.rows(path, since=since, until=until, release=release)
    if not records:
        return None
    text = json.dumps([r["request_id"] for r in records])
    key = hashlib.sha256(f"{release}|{since}|{until}|{reference}|{text}".encode()).hexdigest()[:24]
    counted = out / f"{key}.json"
    if not counted.exists():
        frame = answers.features_frame(records, found.names, found.categorical)
        out.mkdir(parents=True, exist_ok=True)
        replace(out / f"{key}.bin", profiles.profile(frame))
        replace(counted, sketches.to_json(sketches.bin_counts(frame, sketches.from_json(reference))).encode())
    return key


@task(cache_policy=NO_CACHE)
def judge(keys: list[str], reference: str, name: str, folder: Path) -> Compared:
    """Merge the window's parts and compare them with the reference."""
    then = sketches.from_json(reference)
    parts = [sketches.from_json((folder / f"{key}.json").read_text()) for key in keys]
    now = sketches.merge(parts) if parts else sketches.bin_counts(answers.features_frame([], []), then)
    if keys:
        whole = profiles.merge([(folder / f"{key}.bin").read_bytes() for key in keys])
        replace(folder / "window.bin", whole)
    return drift.compare(then, now, usecases.load(name).drift), now


@task(cache_policy=NO_CACHE)
def report(
    verdict: drift.Verdict, reference: str, now: tuple[measures.Sketch, ...], path: Path, context: dict[str, Any]
) -> Path:
    """The report's page, one picture per column."""
    then = {s.name: s for s in sketches.from_json(reference)}
    figures = {
        "overview": plots.drift_bars(
            [c.name for c in verdict.columns], [c.psi for c in verdict.columns], verdict.rules.max_psi
        )
    }
    for s in now:
        if sum(s.counts):
            old, new = sum(then[s.name].counts) or 1, sum(s.counts)
            figures[s.name] = plots.compare_bins(
                s.name, s.categories or s.edges, [c / old for c in then[s.name].counts], [c / new for c in s.counts]
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, page.render(drift_report.drift_page(verdict, figures, context)).encode())
    return path


@flow(name="check_drift", task_runner=task_runner())
def check_drift(
    use_case: str = "churn",
    since: datetime | None = None,
    until: datetime | None = None,
    emit: bool = True,
) -> dict[str, Any]:
    """Compare the champion's answers of a window (default: the last 31 days) with its reference.

    On drift outside the cooldown one event `bentoflow.drift.detected` per release and window is emitted, which an
    automation turns into a `train` run. Running it again over the same answers gives the same profiles and verdict,
    and no second event.
    """
    case, home, log = usecases.load(use_case), settings().home, get_run_logger()
    end = utc(until) if until else clock.now(home, use_case) + timedelta(seconds=1)
    start = utc(since) if since else end - WINDOW
    release = transaction.champion_release(home, use_case)
    if release is None:
        log.warning("%s has no champion: nothing to check", use_case)
        return {"use_case": use_case, "state": "no_release"}
    verdict, now, keys, reference = _compare(use_case, release, start, end, home)
    label = f"{start:%Y-%m-%d}_{end:%Y-%m-%d}"
    stem = home / "reports" / use_case / f"drift-{label}-{release.split(':')[-1]}"
    waits = policy.cooldown(history.read(home, use_case), end, case.drift.cooldown_days)
    context = {
        "use case": case.title,
        "release": release,
        "from": f"{start:%Y-%m-%d %H:%M}",
        "until": f"{end:%Y-%m-%d %H:%M} UTC",
        "training": waits or ("asked for by an event" if verdict.state == "drift" else "not needed"),
        "next": f"bentoflow train --use-case {use_case} --reason drift",
    }
    html = report(verdict, reference, now, stem.with_suffix(".html"), context)
    result = {
        "use_case": use_case,
        "state": verdict.state,
        "release": release,
        "since": start.isoformat(),
        "until": end.isoformat(),
        "rows": verdict.n,
        "reasons": list(verdict.reasons),
        "drifted": [c.name for c in verdict.columns if c.drifted],
        "waits": waits,
        "psi": {c.name: c.psi for c in verdict.columns},
        "report": str(html),
        "profiles": keys,
    }
    result["event"] = _announce(result, stem.with_suffix(".json"), end, home, emit=emit)
    create_markdown_artifact(key=f"{use_case}-drift", markdown=drift.as_markdown(verdict))
    log.info("%s: %d answers, %s. %s", label, verdict.n, verdict.state, " ".join(verdict.reasons))
    return result


def _compare(
    use_case: str, release: str, start: datetime, end: datetime, home: Path
) -> tuple[drift.Verdict, tuple[measures.Sketch, ...], list[str], str]:
    """Profile every journal segment, merge and compare; verdict, the window's sketches, the profiles, the reference."""
    folder, out = bentos.model_folder(release), home / "profiles" / use_case
    reference = (folder / manifest.REFERENCE).read_text()
    constant = [unmapped(x) for x in (manifest.load(folder), release, reference, start, end, out)]
    done = profile_segment.map(journal.segments(answers.folder(home, use_case)), *constant).result()
    keys = sorted(key for key in done if key)
    verdict, now = judge(keys, reference, use_case, out)
    return verdict, now, keys, reference


def utc(moment: datetime) -> datetime:
    """A naive time, as a command line or a form gives it, is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _announce(result: dict[str, Any], path: Path, at: datetime, home: Path, *, emit: bool) -> str | None:
    """Keep the verdict; emit the event once for these answers. Gives the event's id, also if it was emitted before."""
    event = None
    if result["state"] == "drift" and emit and not result["waits"]:
        days = [result["since"][:10], result["until"][:10]]  # one event per release and window, however often it runs
        event = str(uuid5(NAMESPACE_URL, json.dumps([result["release"], *days])))
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("profiles") == result["profiles"] and known.get("event") == event and known:
        return event
    if event is not None and event != known.get("event"):
        emit_event(
            event=EVENT,
            resource={"prefect.resource.id": f"bentoflow.{result['use_case']}"},
            id=UUID(event),
            payload={k: result[k] for k in ("use_case", "release", "since", "until", "rows", "reasons", "drifted")},
        )
    key = hashlib.sha256(json.dumps([path.name, result["profiles"], event]).encode()).hexdigest()[:16]
    if not any(line.get("key") == key for line in history.read(home, result["use_case"])):
        history.append(
            home,
            result["use_case"],
            f"drift: {result['state']}",
            at=at,
            release=result["release"],
            rows=result["rows"],
            reasons=result["reasons"],
            report=result["report"],
            event=event,
            waits=result["waits"],
            key=key,
        )
    replace(path, json.dumps({**result, "event": event}, indent=1).encode())  # last: a killed check is told again
    return event


if __name__ == "__main__":
    print(check_drift())
