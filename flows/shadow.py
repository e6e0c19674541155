"""shadow: a promoted version scores what the others answer, beside them and unseen; or it is taken off again."""

import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from bentos.runtime import clock
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import SHADOW, Arm, Rollout
from flows import processes, servers, usecases
from flows.errors import ReleaseError
from flows.release import exclusive, keep
from flows.settings import Settings, settings
from flows.stores import admission, history
from flows.targets import local, placement

ON, OFF = "shadow on", "shadow off"
COMES_UP_S = 30.0  # for a running service to start the shadow's process and load its release; it takes a few seconds


@flow(name="shadow")
@servers.named
def shadow(
    use_case: str = "churn", version: str | None = None, off: bool = False, arm: str = SHADOW, reason: str = "manual"
) -> dict[str, Any]:
    """Put a version (default: the challenger) on as a shadow, or take the shadow off; the other arms stay as they are.

    Only what the gates promoted can be one, since the service loads nothing else. `arm` is `shadow`, or
    `shadow-<name>` for a second one. Doing it again changes nothing. A release keeps the shadows that are on, except
    one of the release itself.
    """
    chosen, log = settings(), get_run_logger()
    usecases.load(use_case)
    if rollout.kind(arm) != SHADOW:
        raise ReleaseError(f"a shadow is called {SHADOW} or {SHADOW}-<name>, not {arm!r}")
    if off and version is not None:
        raise ReleaseError(f"whatever the {arm} is will be taken off; do not name a version, or leave --off out")
    with exclusive(chosen.home, use_case):
        if (settled := placement.recover(chosen, use_case)) is not None:
            log.warning("an interrupted release was %s", settled)
        now = in_charge(chosen.home, use_case)
        before = next((a for a in now.arms if a.name == arm), None)
        wanted = None if off else staged(use_case, version, arm, now)
        action = "unchanged" if wanted == before else OFF if wanted is None else ON
        if action != "unchanged":
            others = tuple(a for a in now.arms if a.name != arm)
            made = Rollout((*others, *([wanted] if wanted else ())), now.salt)
            rollout.write(rollout.rollout_path(chosen.home, use_case), made)
        record(chosen.home, use_case, arm, wanted, reason)
    return {
        "use_case": use_case,
        "action": action,
        "arm": arm,
        "release": shown.release if (shown := wanted or before) else None,
        "state": seen(chosen, use_case, arm, wanted),
    }


def in_charge(home: Path, use_case: str) -> Rollout:
    """The rollout as it is; ReleaseError before the first release."""
    found = rollout.read(rollout.rollout_path(home, use_case))
    if found is None or not any(arm.name == rollout.CHAMPION for arm in found.arms):
        raise ReleaseError(f"{use_case} has no champion that a shadow could be beside: run `bentoflow release` first")
    return found


def staged(use_case: str, number: str | None, arm: str, now: Rollout) -> Arm:
    """The arm of a promoted version whose files are in BentoML's store; ReleaseError if it cannot be a shadow."""
    tag, _ = keep(use_case, admission.promoted(use_case, number))
    for other in now.arms:
        if other.release == tag and other.name != arm and other.kind in (rollout.CHAMPION, SHADOW):
            raise ReleaseError(f"{tag} is the {other.name} already; name a version that is not, or take that off first")
    return Arm(arm, tag, rollout.WEIGHTS[SHADOW])


def record(home: Path, use_case: str, arm: str, wanted: Arm | None, reason: str) -> None:
    """One line of history if the last one about this arm says otherwise: a command that was killed is completed."""
    about = [line for line in history.read(home, use_case) if line["action"] in (ON, OFF) and line["arm"] == arm]
    last = about[-1]["release"] if about and about[-1]["action"] == ON else None
    if last == (wanted.release if wanted else None):
        return
    action, release = (ON, wanted.release) if wanted else (OFF, str(last))
    version = release.partition(":v")[2].partition("-")[0]
    at = clock.now(home, use_case)
    history.append(home, use_case, action, at=at, arm=arm, version=version, release=release, reason=reason)


def seen(chosen: Settings, use_case: str, arm: str, wanted: Arm | None) -> str:
    """What a running service says of the arm once it has followed: its state, or that it is off."""
    service = processes.running(chosen.home, local.process_name(use_case))
    if service is None:
        return "the service is not running; it will follow when it starts"
    deadline, state = time.monotonic() + COMES_UP_S, "starting"
    while time.monotonic() < deadline:
        health = local.health(service.url)
        found = health.get("arms", {}).get(arm)
        if found is None and wanted is None and health:
            return "off"
        if found is not None and wanted is not None and found["release"] == wanted.release:
            state = str(found["state"])
            if state != "starting":
                return state
        time.sleep(0.1)
    return f"{state}, after {COMES_UP_S:.0f} s"
