"""The predictor of one use case: rows in, each with its answer or its own error out, journalled before they leave."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bentos.runtime import clock, metrics
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.batcher import Batcher, Overloaded
from bentos.runtime.inputs import Input, gather
from bentos.runtime.journal import Journal, JournalError
from bentos.runtime.manifest import Manifest
from bentos.runtime.online import FeatureReader, warm
from bentos.runtime.release import Release, load_release
from bentos.runtime.rollout import CHAMPION, Arm, Bundle, Rollout, Watcher, rollout_path
from bentos.runtime.scorer import decide

log = logging.getLogger("bentoflow.predictor")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """A row as it waits for a batch."""

    row: Mapping[str, Any]
    arm: str
    smoke: bool


class Predictor:
    """Answers for one use case from the releases that its rollout file names.

    `locate` gives the folder of a release tag. `release` is a tag that is champion while there is no rollout file.
    """

    def __init__(
        self,
        use_case: str,
        home: Path,
        locate: Callable[[str], Path],
        *,
        release: str | None = None,
        open_reader: Callable[[Manifest], FeatureReader] | None = None,
        max_rows: int = 512,
        max_queued: int = 50_000,
        fsync: bool = False,
    ) -> None:
        self.use_case, self.home = use_case, home
        self._locate = locate
        self._open_reader = open_reader or self._feature_reader
        self._warm: Callable[[], None] = warm if open_reader is None else lambda: None
        self._journal = Journal(home / "journal" / use_case, fsync=fsync)
        self._batcher: Batcher[Item, Answer | RowError] = Batcher(
            self._decide, max_rows=max_rows, max_queued=max_queued
        )
        self.watcher: Watcher[Release] = Watcher(
            rollout_path(home, use_case),
            self._load,
            on_change=self._report,
            fallback=Rollout((Arm(CHAMPION, release, 1.0),)) if release else None,
        )
        self._reported: dict[str, tuple[str, ...]] = {}
        self._started = time.monotonic()
        self._answered = 0

    async def start(self) -> None:
        """Load the rollout's releases and begin to answer; without a release the service runs and says so."""
        metrics.metrics()
        await asyncio.to_thread(self.watcher.start)
        self._batcher.start()
        if self.watcher.bundle is None:
            threading.Thread(target=self._warm, name="warm-up", daemon=True).start()

    async def stop(self) -> None:
        """Answer what waits, then close the journal's segment."""
        await self._batcher.stop()
        await asyncio.to_thread(self.watcher.stop)
        self._journal.close()

    async def answer(
        self, rows: Sequence[Mapping[str, Any]], *, arm: str | None = None, smoke: bool = False
    ) -> list[Answer | RowError]:
        """Each row's answer or error, in order; Overloaded if they do not fit into the queue."""
        try:
            results = await self._batcher.submit([Item(row, arm or CHAMPION, smoke) for row in rows])
        except Overloaded:
            metrics.count_errors(self.use_case, [503])
            raise
        except Exception:
            log.exception("a batch of %s failed", self.use_case)
            results = [RowError(500, "an unexpected error, see the server's log") for _ in rows]
        errors = [r.status for r in results if isinstance(r, RowError)]
        metrics.count_errors(self.use_case, errors)
        if not smoke:
            self._answered += len(results) - len(errors)
            metrics.count_answers(
                self.use_case, ((r.model_version, r.risk, r.probability) for r in results if isinstance(r, Answer))
            )
        return results

    def ready(self) -> tuple[bool, str]:
        """Whether a champion answers, and if not why."""
        bundle = self.watcher.bundle
        if bundle is not None and CHAMPION in bundle.arms:
            return True, "ok"
        if self.watcher.problem is not None:
            return False, self.watcher.problem
        return False, f"no release of {self.use_case} is in charge ({self.watcher.path}); run `bentoflow release`"

    def health(self) -> dict[str, Any]:
        """Version and release in charge, seconds and answers since start, and what is wrong with the rollout."""
        bundle = self.watcher.bundle
        champion = None if bundle is None else bundle.arms.get(CHAMPION)
        return {
            "status": "ok" if self.ready()[0] else "no release",
            "use_case": self.use_case,
            "version": None if champion is None else champion.model_version,
            "release": None if champion is None else champion.release,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "answered": self._answered,
            "problem": self.watcher.problem,
        }

    def _feature_reader(self, manifest: Manifest) -> FeatureReader:
        return FeatureReader.open(
            self.home, entity=manifest.entity, feature_service=manifest.feature_service, names=manifest.names
        )

    def _load(self, tag: str) -> Release:
        return load_release(self._locate(tag), self.use_case, self._open_reader)

    def _decide(self, items: list[Item]) -> list[Answer | RowError]:
        """One batch, in the batcher's thread: each arm's rows read and scored at once, one write, then answers."""
        metrics.metrics().rows.labels(self.use_case).observe(len(items))
        bundle = self.watcher.bundle  # once: the whole batch is answered by one rollout
        now = clock.now(self.home, self.use_case)
        results: list[Answer | RowError] = [RowError(500, "not decided")] * len(items)
        records: list[Record] = []
        order = sorted(range(len(items)), key=lambda i: items[i].arm)
        for arm, group in groupby(order, key=lambda i: items[i].arm):
            chosen = list(group)
            served = self._arm(bundle, arm)
            if isinstance(served, RowError):
                decided: list[tuple[Answer | RowError, Record | None]] = [(served, None)] * len(chosen)
            else:
                decided = decide_rows([items[i] for i in chosen], arm, served, now)
            for i, (result, record) in zip(chosen, decided, strict=True):
                results[i] = result
                records += [] if record is None else [record]
        try:
            self._journal.append(records)
        except JournalError as error:
            log.error("not answered: %s", error)
            return [
                r
                if isinstance(r, RowError)
                else RowError(503, "the journal cannot be written, so nothing is answered; retry later")
                for r in results
            ]
        return results

    def _arm(self, bundle: Bundle[Release] | None, arm: str) -> Release | RowError:
        served = None if bundle is None else bundle.arms.get(arm)
        if served is not None:
            return served
        if arm == CHAMPION:
            return RowError(503, self.ready()[1])
        known = ", ".join(bundle.arms) if bundle is not None else "none"
        return RowError(400, f"no arm {arm!r:.60} in the rollout; known: {known}", {"field": "x-bentoflow-arm"})

    def _report(self, bundle: Bundle[Release] | None, problem: str | None) -> None:
        m = metrics.metrics()
        m.problem.labels(self.use_case).set(0 if problem is None else 1)
        current = (
            {}
            if bundle is None
            else {name: (self.use_case, name, r.release, r.model_version) for name, r in bundle.arms.items()}
        )
        for labels in set(self._reported.values()) - set(current.values()):
            m.release.labels(*labels).set(0)
        for labels in current.values():
            m.release.labels(*labels).set(1)
        self._reported = dict(current)


def decide_rows(
    items: list[Item], arm: str, served: Release, now: datetime
) -> list[tuple[Answer | RowError, Record | None]]:
    """Each row's answer with its journal record, or its error, from one feature read and one model call."""
    manifest = served.manifest
    inputs = gather([item.row for item in items], manifest, served.reader, now)
    ready = [row.values for row in inputs if isinstance(row, Input)]
    scores = iter(served.scorer.score(np.stack(ready)) if ready else ())
    wall = datetime.now(UTC).isoformat()
    decided: list[tuple[Answer | RowError, Record | None]] = []
    for item, row in zip(items, inputs, strict=True):
        if isinstance(row, RowError):
            decided.append((row, None))
            continue
        score = float(next(scores))
        if not 0.0 <= score <= 1.0:
            decided.append(
                (
                    RowError(
                        500,
                        f"release {served.release} scored {score!r}, which is no probability",
                        {manifest.entity: row.key},
                    ),
                    None,
                )
            )
            continue
        answer = _answer(row, score, arm, served)
        decided.append(
            (answer, _record(answer, row, served, {"time": now.isoformat(), "wall": wall, "smoke": item.smoke}))
        )
    return decided


def _answer(row: Input, score: float, arm: str, served: Release) -> Answer:
    manifest = served.manifest
    values = {
        name: None if value != value else value for name, value in zip(manifest.names, row.values.tolist(), strict=True)
    }
    return Answer(
        request_id=uuid.uuid4().hex,
        entity=manifest.entity,
        key=row.key,
        probability=score,
        risk=manifest.risks[decide(score, manifest.threshold)],
        features=values,
        event_time=row.event_time,
        stale=manifest.stale == "flag" and row.state != "ok",
        model_version=served.model_version,
        release=served.release,
        arm=arm,
    )


def _record(answer: Answer, row: Input, served: Release, times: Record) -> Record:
    return {
        "request_id": answer.request_id,
        **times,
        "entity": answer.key,
        "features": answer.features,
        "event_time": None if answer.event_time is None else answer.event_time.isoformat(),
        "source": row.source,
        "state": row.state,
        "score": answer.probability,
        "decision": answer.risk,
        "threshold": served.manifest.threshold,
        "arm": answer.arm,
        "release": answer.release,
        "model_version": answer.model_version,
    }
