"""The rollout: which releases answer now, kept in one file that is replaced atomically and watched by every service."""

import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.runtime.home import replace

CHAMPION, CHALLENGER, CANARY, SHADOW = KINDS = ("champion", "challenger", "canary", "shadow")
WEIGHTS = {CHAMPION: 1.0, CHALLENGER: 0.0, SHADOW: 0.0}  # a canary's is its own, and then the champion has the rest
SEVERAL = re.compile(f"({CANARY}|{SHADOW})(-[a-z0-9_.-]+)?")
MAX_SALT = 64  # bytes: blake2b's longest key


class RolloutError(ValueError):
    """A rollout names impossible arms, or its file cannot be read."""


@dataclass(frozen=True)
class Arm:
    """A release taking part: its name, its tag and the share of entities, 0 to 1, that it answers unasked."""

    name: str
    release: str
    weight: float

    @property
    def kind(self) -> str:
        """What the arm does: the first word of its name, so that a journal's line tells it too."""
        return kind(self.name)


def kind(name: str) -> str:
    """champion, challenger, canary or shadow: `canary-b` is a second canary."""
    return name.partition("-")[0]


@dataclass(frozen=True)
class Rollout:
    """Who answers, who waits and who is only tried out.

    At most one champion; any number of canaries, `canary` or `canary-<name>`, each with the share of entities that it
    answers, while the champion has the rest; at most one challenger (answers only those who name it); any number of
    shadows, `shadow` or `shadow-<name>` (answer nobody, and score what the others answered). `salt` draws the
    entities of the canaries: another salt, another draw.
    """

    arms: tuple[Arm, ...]
    salt: str = ""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        for arm in self.arms:
            if arm.name not in (CHAMPION, CHALLENGER) and not SEVERAL.fullmatch(arm.name):
                raise RolloutError(
                    f"no arm is called {arm.name!r}; known: {', '.join(KINDS)}, {CANARY}-<name>, {SHADOW}-<name>"
                )
            if names.count(arm.name) > 1:
                raise RolloutError(f"a rollout has one {arm.name}, this has {names.count(arm.name)}")
            if not arm.release:
                raise RolloutError(f"the {arm.name} names no release; give its tag, such as name:v3-ab12cd34")
            if arm.kind == CANARY and not 0 <= arm.weight <= 1:
                raise RolloutError(f"the {arm.name}'s weight is a share from 0 to 1, not {arm.weight!r}")
        self._check_shares()

    @property
    def canaries(self) -> tuple[Arm, ...]:
        """The canaries, in the file's order."""
        return tuple(arm for arm in self.arms if arm.kind == CANARY)

    def _check_shares(self) -> None:
        taken = math.fsum(arm.weight for arm in self.canaries)
        if taken > 1 + 1e-9:
            raise RolloutError(f"the canaries' weights add up to {taken:g}, more than 1; lower one of them")
        for arm in self.arms:
            wanted = 1.0 - taken if arm.kind == CHAMPION else WEIGHTS.get(arm.kind, arm.weight)
            if not math.isclose(arm.weight, wanted, abs_tol=1e-9):
                rest = f", what the canaries' {taken:g} leave" if self.canaries and arm.kind == CHAMPION else ""
                raise RolloutError(f"the {arm.name}'s weight is {wanted:g}{rest}, not {arm.weight!r}")
        if not self.canaries:
            return
        if CHAMPION not in [arm.name for arm in self.arms]:
            raise RolloutError("a canary needs a champion beside it, which answers the rest")
        if not 0 < len(self.salt.encode()) <= MAX_SALT:
            raise RolloutError(
                f"a canary needs a salt of 1 to {MAX_SALT} bytes beside the arms, which draws its entities; "
                f"this one is {self.salt!r:.80}"
            )


def rollout_path(home: Path, use_case: str) -> Path:
    """Where a use case's rollout file lies."""
    return home / "rollout" / f"{use_case}.json"


def read(path: Path) -> Rollout | None:
    """The rollout in a file, None if there is no file; RolloutError says what is wrong with it."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(text)
        arms = tuple(Arm(str(a["name"]), str(a["release"]), float(a["weight"])) for a in raw["arms"])
        return Rollout(arms, str(raw.get("salt", "")))
    except RolloutError as error:
        raise RolloutError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RolloutError(
            f'{path} is not {{"arms": [{{"name", "release", "weight"}}], "salt"}}: {error!r}; run `bentoflow release`'
        ) from error


def write(path: Path, rollout: Rollout) -> None:
    """Replace a rollout file; services and a start after a crash find the old or the new one."""
    replace(path, json.dumps(asdict(rollout), indent=1).encode())
