"""Decisions: a batch's rows of one arm to answers and journal lines, from one feature read and one model call."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bentos.runtime.answers import GAP, Answer, Column, Form, RowError, texts
from bentos.runtime.scoring.events import gatherer
from bentos.runtime.scoring.inputs import Fields, Gathered, places
from bentos.runtime.scoring.model import Floats
from bentos.runtime.scoring.release import Release
from bentos.runtime.scoring.wire import encoded, lines_of, order

JSON = {word: orjson.dumps(word) for word in (True, False, None, "online", "request", "ok", "expired", "missing")}


class Decider:
    """Decides for one release on one arm; made when the rollout changes, so that a row costs little."""

    def __init__(self, arm: str, served: Release) -> None:
        manifest = served.manifest
        self.arm, self.served = arm, served
        self._gatherer = gatherer(manifest, served.reader, served.scorer.preprocess)
        fixed = {"model_version": served.model_version, "release": served.release, "arm": arm}
        self._order = order(manifest)
        self._place = partial(bisect_right, manifest.cuts)
        score = dict.fromkeys(("score", "decision", "features", "event_time"), GAP)
        self._record = Form(
            {"request_id": GAP, "entity": GAP}
            | ({"others": dict.fromkeys(manifest.others, GAP)} if manifest.others else {})
            | score
            | dict.fromkeys(("source", "state", "smoke", "time", "wall"), GAP)
            | {"threshold": manifest.threshold}
            | fixed
        )
        decision = dict.fromkeys(("probability", "risk", "features", "event_time", "stale"), GAP)
        self._answer = Form({"request_id": GAP} | dict.fromkeys(manifest.keys, GAP) | decision | fixed)

    def decide(
        self,
        rows: Sequence[Fields],
        smoke: Sequence[bool],
        now: datetime,
        *,
        ids: Sequence[str] | None = None,
    ) -> tuple[list[Answer | RowError], bytes]:
        """Each row's answer or error, and the journal's lines of the answers; `ids` if the rows have some."""
        gathered = self._gatherer.gather(rows, now)
        scores = self.served.scorer.score_inputs(gathered.z)
        possible = (scores >= 0.0) & (scores <= 1.0)
        if not possible.all():
            gathered, scores = self._without_impossible(gathered, scores, possible), scores[possible]
        errors = gathered.errors
        if len(errors) == len(rows):
            return [errors[i] for i in range(len(rows))], b""
        if errors:
            fine = places(errors, len(scores))
            smoke = [smoke[i] for i in fine]
            ids = ids and [ids[i] for i in fine]
        answers, lines = self._answers(gathered, scores.tolist(), smoke, now, ids or _request_ids(len(scores)))
        if not errors:
            return answers, lines
        given = iter(answers)
        return [errors.get(i) or next(given) for i in range(len(rows))], lines

    def _without_impossible(self, gathered: Gathered, scores: Floats, possible: npt.NDArray[np.bool_]) -> Gathered:
        place, about = places(gathered.errors, len(scores)), self.served.manifest.entity
        wrong = {}
        for at in np.flatnonzero(~possible).tolist():
            reason = f"release {self.served.release} scored {float(scores[at])!r}, which is no probability"
            wrong[place[at]] = RowError(500, reason, {about: gathered.ready.keys[at]})
        return gathered.only(possible, wrong)

    def _features(self, gathered: Gathered) -> list[bytes]:
        """The JSON of each row's features."""
        if gathered.brought is not None:
            return lines_of(gathered.brought)
        columns = gathered.values.T.tolist()
        for c, j in enumerate(self._gatherer.categories.columns):
            columns[j] = gathered.texts[:, c].tolist()
        return encoded(self._order, columns)

    def _answers(
        self, gathered: Gathered, scores: list[float], smoke: Sequence[bool], now: datetime, ids: Sequence[str]
    ) -> tuple[list[Answer | RowError], bytes]:
        served, manifest, n = self.served, self.served.manifest, len(scores)
        keys, sources, times, states, others, moments = gathered.ready
        risks = list(map(manifest.risks.__getitem__, map(self._place, scores)))
        stale = [state != "ok" for state in states] if manifest.stale == "flag" else [False] * n
        shared: list[Column] = [
            ('"' + '","'.join(ids) + '"').encode().split(b","),
            texts(keys),
            *(texts([row[j] for row in others]) for j in range(len(manifest.others))),
            texts(scores),
            _words(risks),
            self._features(gathered),
            _words(times),
        ]
        about: list[Column] = [
            _words(sources),
            _words(states),
            _words(smoke),
            _words([moment or now for moment in moments]) if manifest.time else orjson.dumps(now.isoformat()),
            orjson.dumps(datetime.now(UTC).isoformat()),
        ]
        leaving = self._answer.fill([*shared, _words(stale)]).split(b"\n")
        fixed = (repeat(served.model_version), repeat(served.release), repeat(self.arm))
        made = map(Answer, ids, repeat(manifest.entity), keys, scores, risks, times, stale, *fixed, leaving)
        return list(made), self._record.fill([*shared, *about])


def _request_ids(n: int) -> list[str]:
    random = os.urandom(16 * n).hex()
    return [random[i : i + 32] for i in range(0, 32 * n, 32)]


def _words(values: Sequence[Any]) -> Column:
    """The JSON of values of which there are few different ones; a single one's alone stands for all."""
    different = set(values)
    if len(different) == 1:
        return _word(values[0])
    known = {value: _word(value) for value in different}
    return [known[value] for value in values]


def _word(value: Any) -> bytes:
    return JSON[value] if value in JSON else orjson.dumps(value.isoformat() if type(value) is datetime else value)
