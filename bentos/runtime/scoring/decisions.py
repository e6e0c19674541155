"""Decisions: a batch's rows of one arm, decided with one feature read and one model call."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from bentos.runtime.answers import RowError
from bentos.runtime.scoring.decided import Columns, Decided, Script, written
from bentos.runtime.scoring.events import gatherer
from bentos.runtime.scoring.gathered import Gathered, places
from bentos.runtime.scoring.inputs import Fields
from bentos.runtime.scoring.model import Floats
from bentos.runtime.scoring.release import Release

ENDS = tuple(f"{i:04x}" for i in range(1024))  # of request ids


class Decider:
    """Decides for one release on one arm; made when the rollout changes, so that a row costs little."""

    def __init__(self, arm: str, served: Release) -> None:
        self.arm, self.served = arm, served
        self._script = Script(arm, served)
        self._gatherer = gatherer(served.manifest, served.reader, served.scorer.preprocess)
        self._cuts = np.array(served.manifest.cuts)
        self._risks = np.array(served.manifest.risks, dtype=object)

    def decide(
        self,
        rows: Sequence[Fields],
        smoke: Sequence[bool],
        now: datetime,
        *,
        ids: Sequence[str] | None = None,
    ) -> Decided:
        """Each row's answer or error; `ids` if the rows have some."""
        gathered = self._gatherer.gather(rows, now)
        scores = self.served.scorer.score_inputs(gathered.z)
        possible = (scores >= 0.0) & (scores <= 1.0)
        if not possible.all():
            gathered, scores = self._without_impossible(gathered, scores, possible), scores[possible]
        if gathered.errors:
            fine = places(gathered.errors, len(scores))
            smoke = [smoke[i] for i in fine]
            ids = ids and [ids[i] for i in fine]
        manifest, listed = self.served.manifest, scores.tolist()
        states = gathered.ready.states
        flagged = manifest.stale == "flag" and states.count("ok") < len(states)
        columns = Columns(
            ids or _request_ids(len(listed)),
            listed,
            self._risks[self._cuts.searchsorted(scores, side="right")].tolist(),
            written(gathered.ready.event_times),
            [state != "ok" for state in states] if flagged else [False] * len(listed),
            smoke,
        )
        return Decided(self._script, gathered, columns, now, datetime.now(UTC).isoformat())

    def _without_impossible(self, gathered: Gathered, scores: Floats, possible: npt.NDArray[np.bool_]) -> Gathered:
        place, about = places(gathered.errors, len(scores)), self.served.manifest.entity
        wrong = {}
        for at in np.flatnonzero(~possible).tolist():
            reason = f"release {self.served.release} scored {float(scores[at])!r}, which is no probability"
            wrong[place[at]] = RowError(500, reason, {about: gathered.ready.keys[at]})
        return gathered.only(possible, wrong)


def _request_ids(n: int) -> list[str]:
    """As many ids of 32 hexadecimal digits: random ones, which a thousand rows share but for the last four."""
    starts = [os.urandom(14).hex() for _ in range(0, n, len(ENDS))]
    return [start + end for start in starts for end in ENDS[:n]][:n]
