"""Decisions: a batch's rows of one arm to answers and journal lines, from one feature read and one model call."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import orjson

from bentos.runtime.answers import GAP, Answer, Column, Form, RowError, texts
from bentos.runtime.scoring.categories import Texts
from bentos.runtime.scoring.events import gatherer
from bentos.runtime.scoring.inputs import Fields, Input
from bentos.runtime.scoring.model import Floats
from bentos.runtime.scoring.release import Release
from bentos.runtime.scoring.wire import encoded, order

JSON = {word: orjson.dumps(word) for word in (True, False, None, "online", "request", "ok", "expired", "missing")}


class Decider:
    """Decides for one release on one arm; made when the rollout changes, so that a row costs little."""

    def __init__(self, arm: str, served: Release) -> None:
        manifest = served.manifest
        self.arm, self.served = arm, served
        self._gatherer = gatherer(manifest, served.reader, served.scorer.preprocess)
        fixed = {"model_version": served.model_version, "release": served.release, "arm": arm}
        self._order = order(manifest)
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
        scores, values, words = self.served.scorer.score_inputs(gathered.z), gathered.values, gathered.texts
        found: list[Input | RowError] = gathered.rows
        possible = (scores >= 0.0) & (scores <= 1.0)
        if not possible.all():
            found = self._without_impossible(found, scores.tolist())
            scores, values, words = scores[possible], values[possible], words[possible]
        ready = [row for row in found if isinstance(row, Input)]
        if not ready:
            return [row for row in found if isinstance(row, RowError)], b""
        if len(ready) < len(found):
            smoke = [s for s, row in zip(smoke, found, strict=True) if isinstance(row, Input)]
            ids = ids and [name for name, row in zip(ids, found, strict=True) if isinstance(row, Input)]
        answers, lines = self._answers(
            ready, scores.tolist(), values, words, smoke, now, ids or _request_ids(len(ready))
        )
        if len(ready) == len(found):
            return answers, lines
        given = iter(answers)
        return [row if isinstance(row, RowError) else next(given) for row in found], lines

    def _without_impossible(self, found: list[Input | RowError], scores: list[float]) -> list[Input | RowError]:
        rest, checked = iter(scores), list(found)
        for i, row in enumerate(found):
            if isinstance(row, Input) and not 0.0 <= (score := next(rest)) <= 1.0:
                reason = f"release {self.served.release} scored {score!r}, which is no probability"
                checked[i] = RowError(500, reason, {self.served.manifest.entity: row.key})
        return checked

    def _answers(
        self,
        ready: list[Input],
        scores: list[float],
        values: Floats,
        words: Texts,
        smoke: Sequence[bool],
        now: datetime,
        ids: Sequence[str],
    ) -> tuple[list[Answer | RowError], bytes]:
        served, manifest, n = self.served, self.served.manifest, len(ready)
        keys, sources, times, states, others, moments = zip(*ready, strict=True)
        cuts, names = manifest.cuts, manifest.risks
        risks = [names[bisect_right(cuts, score)] for score in scores]
        stale = [state != "ok" for state in states] if manifest.stale == "flag" else [False] * n
        columns = values.T.tolist()
        for c, j in enumerate(self._gatherer.categories.columns):
            columns[j] = words[:, c].tolist()
        shared: list[Column] = [
            ('"' + '","'.join(ids) + '"').encode().split(b","),
            texts(keys),
            *(texts([row[j] for row in others]) for j in range(len(manifest.others))),
            texts(scores),
            _words(risks),
            encoded(self._order, columns),
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
