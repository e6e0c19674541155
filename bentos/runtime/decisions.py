"""Decisions: a batch's rows of one arm to answers and journal lines, from one feature read and one model call."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from bentos.runtime.answers import Answer, Form, RowError, encoded_time
from bentos.runtime.inputs import Gatherer, Input
from bentos.runtime.release import Release
from bentos.runtime.scorer import decide

JSON = {True: b"true", False: b"false"}
TEXTS = {word: orjson.dumps(word) for word in ("online", "request", "ok", "expired", "missing")}


@dataclass(frozen=True, slots=True)
class Item:
    """A row as it waits for a batch."""

    row: Mapping[str, Any]
    arm: str
    smoke: bool


class Decider:
    """Decides for one release on one arm; made when the rollout changes, so that a row costs little."""

    def __init__(self, arm: str, served: Release) -> None:
        manifest = served.manifest
        self.arm, self.served = arm, served
        self._gatherer = Gatherer(manifest, served.reader, served.scorer.preprocess)
        self._names = manifest.names
        self._form = Form(
            entity=manifest.entity,
            model_version=served.model_version,
            release=served.release,
            arm=arm,
            threshold=manifest.threshold,
        )
        self._risks = tuple((risk, orjson.dumps(risk)) for risk in manifest.risks)

    def decide(self, items: Sequence[Item], now: datetime) -> tuple[list[Answer | RowError], list[bytes]]:
        """Each row's answer or error, and the journal's line of each answer."""
        gathered = self._gatherer.gather([item.row for item in items], now)
        scores = self.served.scorer.score_inputs(gathered.z).tolist()
        texts = orjson.dumps(scores)[1:-1].split(b",")
        scored = zip(scores, texts, gathered.values.tolist(), strict=True)
        ids = os.urandom(16 * len(items)).hex()
        times = (orjson.dumps(now.isoformat()), orjson.dumps(datetime.now(UTC).isoformat()))
        results: list[Answer | RowError] = []
        lines: list[bytes] = []
        for i, (item, row) in enumerate(zip(items, gathered.rows, strict=True)):
            if isinstance(row, RowError):
                results.append(row)
                continue
            score, text, values = next(scored)
            if not 0.0 <= score <= 1.0:
                reason = f"release {self.served.release} scored {score!r}, which is no probability"
                results.append(RowError(500, reason, {self.served.manifest.entity: row.key}))
                continue
            answer, line = self._answer(row, score, text, values, ids[32 * i : 32 * i + 32], item.smoke, times)
            results.append(answer)
            lines.append(line)
        return results, lines

    def _answer(
        self,
        row: Input,
        score: float,
        text: bytes,
        values: list[float],
        request_id: str,
        smoke: bool,
        times: tuple[bytes, bytes],
    ) -> tuple[Answer, bytes]:
        served, manifest = self.served, self.served.manifest
        key, source, event_time, state = row
        risk, risk_text = self._risks[decide(score, manifest.threshold)]
        stale = state != "ok" and manifest.stale == "flag"
        name = b'"%b"' % request_id.encode()
        key_text = orjson.dumps(key)
        features = orjson.dumps(dict(zip(self._names, values, strict=True)))  # NaN becomes null
        moment = encoded_time(event_time)
        encoded = self._form.answer % (name, key_text, text, risk_text, features, moment, JSON[stale])
        line = self._form.record % (
            name,
            key_text,
            text,
            risk_text,
            features,
            moment,
            TEXTS[source],
            TEXTS[state],
            JSON[smoke],
            *times,
        )
        answer = Answer(
            request_id,
            manifest.entity,
            key,
            score,
            risk,
            self._names,
            values,
            event_time,
            stale,
            served.model_version,
            served.release,
            self.arm,
            encoded,
        )
        return answer, line + b"\n"
