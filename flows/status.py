"""What is champion, since when and why; the last verdicts; the journal's size; what is running."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bentos.runtime import clock, journal
from bentos.runtime.rollouts import rollout
from flows import processes, usecases
from flows.settings import Settings
from flows.steps.data import quarantine
from flows.steps.monitoring import policy
from flows.steps.monitoring.triggers import Cause
from flows.stores import answers, backtests, history, registry, transaction
from flows.targets import local
from flows.usecases.spec import UseCase


def status(chosen: Settings, use_case: str) -> dict[str, Any]:
    """The state of a use case as stored evidence shows it."""
    case, home = usecases.load(use_case), chosen.home
    lines = history.read(home, use_case)
    champion = registry.by_alias(use_case, "champion")
    since = next((line for line in reversed(lines) if line["action"] in {"promoted", "rolled back"}), None)
    segments = journal.segments(answers.folder(home, use_case))
    pending = transaction.read(home, use_case)
    service = processes.running(home, local.process_name(use_case))
    return {
        "use case": use_case,
        "clock": clock.now(home, use_case).isoformat(),
        "champion": None
        if champion is None or since is None
        else f"version {champion.number}, {since['action']} at {since['at'][:10]} ({since['reason']}), "
        f"release {since['release']}",
        "image": champion.tags.get("image") if champion else None,
        "aliases": registry.aliases(use_case),
        "rollout": _arms(home, use_case, local.health(service.url) if service else None),
        "under way": None
        if pending is None
        else f"{pending.action} {pending.release}: run `bentoflow release` to settle it",
        **_retraining(case, lines, clock.now(home, use_case)),
        "backtest": _backtest(home, use_case),
        "last verdicts": [f"{line['at'][:10]} {line['action']}" for line in lines if _is_verdict(line)][-5:],
        "journal": f"{len(segments)} segments, {sum(p.stat().st_size for p in segments):,} bytes",
        "service": service.url if service else "not running",
    }


def _retraining(case: UseCase, lines: list[dict[str, Any]], now: datetime) -> dict[str, str | None]:
    """Who decides on a training, what holds automatic ones up, an open question, and an event that nothing followed."""
    rules, wall = case.retraining, datetime.now(UTC)
    anything = Cause(trigger="drift", severity="high")
    stopped = policy.broken(lines, now) or policy.held(lines, now, anything, rules, case.drift.cooldown_days)
    return {
        "retraining": f"{rules.policy}; {stopped or 'nothing holds it up'}",
        "question": policy.open_question(lines, wall),
        "quarantine": "; ".join(map(str, quarantine.holding(lines))) or "nothing is left out of trainings",
        "automation": policy.unfollowed(lines, wall, rules.notice_minutes) or "every event was followed by a run",
    }


def _backtest(home: Path, use_case: str) -> str | None:
    """What the newest backtest recommends, as of when, and its page."""
    found = backtests.latest(home, use_case)
    if found is None:
        return None
    said = found["recommendation"]
    return f"{said['policy'] or 'nothing'} recommended as of {found['until'][:10]}: {said['why']}. {found['report']}"


def _is_verdict(line: dict[str, Any]) -> bool:
    return str(line["action"]).startswith(("trained", "drift"))


def _arms(home: Path, use_case: str, health: dict[str, Any] | None) -> dict[str, str]:
    """Each arm's release, its share where there is a canary, and what a running service makes of it."""
    try:
        found = rollout.read(rollout.rollout_path(home, use_case))
    except rollout.RolloutError as error:
        return {"problem": str(error)}
    if found is None:
        return {}
    return {
        arm.name: arm.release
        + (f" ({arm.weight:.0%})" if found.canaries else "")
        + (f", {_state(arm, health)}" if health is not None else "")
        for arm in found.arms
    }


def _state(arm: rollout.Arm, health: dict[str, Any]) -> str:
    """What a service makes of an arm: answers, scoring, or why it does neither."""
    served = health.get("arms", {}).get(arm.name, {})
    if served.get("release") != arm.release:
        return f"not loaded ({health.get('problem') or 'no answer yet'})"
    return str(served.get("state", "waits to be named" if arm.kind == rollout.CHALLENGER else "answers"))
