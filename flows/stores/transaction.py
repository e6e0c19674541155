"""The release transaction: one file says what is under way, so that a killed release is completed or reverted.

Before `commit` everything can be undone, from `commit` on everything will be done; both are idempotent.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from bentos.runtime.home import replace as write_file
from bentos.runtime.rollouts import rollout
from bentos.runtime.rollouts.rollout import Arm, Rollout
from flows.errors import ReleaseError, StoreError
from flows.stores import history, records, registry


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A change of champion under way, or of where the champion runs: to which release, and what was before."""

    use_case: str
    action: Literal["promoted", "rolled back", "imaged"]
    release: str
    version: str
    reason: str
    at: str
    aliases: dict[str, str | None]  # wanted afterwards
    aliases_before: dict[str, str | None]
    champion_before: str | None  # release tag
    bento: str = ""
    image: str = ""  # repository@sha256:… where the target is not this machine
    target: str = ""  # that runs the image, such as compose; none where nothing but the rollout file moves
    deployed_before: dict[str, str] | None = None  # what answered there, where a revert has to be told
    committed: bool = False
    id: str = field(default_factory=lambda: uuid4().hex)


def path(home: Path, use_case: str) -> Path:
    """The file of the transaction under way."""
    return home / "releases" / use_case / "pending.json"


def read(home: Path, use_case: str) -> Transaction | None:
    """The transaction under way, if any; StoreError if its file does not say what it is."""
    file = path(home, use_case)
    remedy = "restore it, or remove it and run `bentoflow release` again: the champion goes on answering"
    found = records.read(file, remedy)
    try:
        return Transaction(**found) if found is not None else None
    except TypeError as error:
        raise StoreError(f"{file} is no transaction of this version: {error}; {remedy}") from error


def write(home: Path, pending: Transaction) -> None:
    """Record the transaction, atomically and synced."""
    write_file(path(home, pending.use_case), json.dumps(asdict(pending), indent=1).encode())


def arms(champion: str | None, challenger: str | None = None, shadows: tuple[Arm, ...] = ()) -> Rollout:
    """A rollout with a champion, perhaps a staged challenger, and the shadows that are not champion themselves."""
    found = [Arm("champion", champion, 1.0)] if champion else []
    if challenger and challenger != champion:
        found.append(Arm("challenger", challenger, 0.0))
    return Rollout((*found, *(arm for arm in shadows if arm.release != champion)))


def shadows(home: Path, use_case: str) -> tuple[Arm, ...]:
    """The shadows that are on, which every change of champion keeps; none if the file cannot be read."""
    try:
        now = rollout.read(rollout.rollout_path(home, use_case))
    except rollout.RolloutError:  # what is written next replaces it
        return ()
    return tuple(arm for arm in now.arms if arm.kind == rollout.SHADOW) if now else ()


def champion_release(home: Path, use_case: str) -> str | None:
    """Tag of the release that answers now, by the rollout file; None before the first one."""
    now = rollout.read(rollout.rollout_path(home, use_case))
    return next((arm.release for arm in now.arms if arm.name == rollout.CHAMPION), None) if now else None


def mend(home: Path, use_case: str, at: datetime) -> str | None:
    """Write the rollout file anew where it does not name the champion's release: it was lost, cut off or edited.

    Only where no release is under way: aliases and file say the same then. What was wrong, None if nothing was.
    """
    champion = registry.by_alias(use_case, "champion")
    if champion is None or (release := champion.tags.get("release")) is None:
        return None
    try:
        answers = champion_release(home, use_case)
    except rollout.RolloutError as error:
        why = str(error)
    else:
        if answers == release:
            return None
        why = f"the rollout file named {answers or 'no champion'}, and {release} is in charge"
    beside = shadows(home, use_case)
    rollout.write(rollout.rollout_path(home, use_case), arms(release, shadows=beside))
    history.append(home, use_case, "rollout mended", at=at, version=champion.number, release=release, reason=why)
    return why


def stage(home: Path, pending: Transaction) -> None:
    """Put the release beside the champion: it answers only who asks for it."""
    beside = shadows(home, pending.use_case)
    rollout.write(rollout.rollout_path(home, pending.use_case), arms(pending.champion_before, pending.release, beside))


def share(home: Path, pending: Transaction, weight: float) -> None:
    """Let the release answer that share of entities, 0 to 1, the same ones and more at every larger share."""
    if pending.champion_before is None:
        raise ReleaseError(f"{pending.release} has no champion beside it that could answer the rest")
    both = (Arm(rollout.CHAMPION, pending.champion_before, 1 - weight), Arm(rollout.CANARY, pending.release, weight))
    beside = shadows(home, pending.use_case)
    rollout.write(rollout.rollout_path(home, pending.use_case), Rollout((*both, *beside), salt=pending.id))


def commit(home: Path, pending: Transaction) -> Transaction:
    """The point of no return: one atomic write."""
    done = replace(pending, committed=True)
    write(home, done)
    return done


def switch(home: Path, pending: Transaction) -> None:
    """All requests to the release."""
    beside = shadows(home, pending.use_case)
    rollout.write(rollout.rollout_path(home, pending.use_case), arms(pending.release, shadows=beside))


def record(home: Path, pending: Transaction) -> None:
    """Aliases, then one line of history, then the end of the transaction."""
    image = {"image": pending.image} if pending.image else {}
    target = {"target": pending.target} if pending.target else {}
    registry.tag(pending.use_case, pending.version, release=pending.release, bento=pending.bento, **image)
    registry.set_aliases(pending.use_case, pending.aliases)
    lines = history.read(home, pending.use_case)
    if not any(line.get("transaction") == pending.id for line in lines):
        history.append(
            home,
            pending.use_case,
            pending.action,
            at=datetime.fromisoformat(pending.at),
            transaction=pending.id,
            version=pending.version,
            release=pending.release,
            bento=pending.bento,
            **image,
            **target,
            previous=pending.aliases_before.get("champion"),
            reason=pending.reason,
        )
    path(home, pending.use_case).unlink(missing_ok=True)


def revert(home: Path, pending: Transaction, why: str) -> None:
    """As it was before: rollout, aliases, and a line of history that says why."""
    file = rollout.rollout_path(home, pending.use_case)
    if pending.champion_before is None:
        file.unlink(missing_ok=True)
    else:
        rollout.write(file, arms(pending.champion_before, shadows=shadows(home, pending.use_case)))
    registry.set_aliases(pending.use_case, pending.aliases_before)
    lines = history.read(home, pending.use_case)
    if any(line.get("transaction") == pending.id for line in lines):
        path(home, pending.use_case).unlink(missing_ok=True)
        return
    history.append(
        home,
        pending.use_case,
        "reverted",
        at=datetime.fromisoformat(pending.at),
        transaction=pending.id,
        version=pending.version,
        release=pending.release,
        reason=why,
    )
    path(home, pending.use_case).unlink(missing_ok=True)


def recover(home: Path, use_case: str) -> str | None:
    """Finish what a killed release left: complete it from the commit on, revert it before; says which, or None."""
    pending = read(home, use_case)
    if pending is None:
        return None
    if pending.committed:
        switch(home, pending)
        record(home, pending)
        return f"completed: {pending.action} {pending.release}"
    revert(home, pending, "the release was interrupted before it was verified")
    return f"reverted: {pending.release} had not been verified"


def describe(pending: Transaction) -> dict[str, Any]:
    """The outcome of a finished transaction."""
    return {
        "use_case": pending.use_case,
        "action": pending.action,
        "release": pending.release,
        "version": pending.version,
        "bento": pending.bento,
        **({"image": pending.image} if pending.image else {}),
        **({"target": pending.target} if pending.target else {}),
        "previous": pending.aliases_before.get("champion"),
        "reason": pending.reason,
    }
