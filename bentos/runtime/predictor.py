"""The predictor of one use case: rows in, each with its answer or its own error out, journalled before they leave."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bentos.runtime import batch, clock, metrics
from bentos.runtime.answers import Answer, Results, RowError, join
from bentos.runtime.batcher import Batcher, Overloaded
from bentos.runtime.features.cache import figures
from bentos.runtime.features.joined import Reader, caches, open_reader
from bentos.runtime.features.online import warm
from bentos.runtime.journal import Journal, JournalError, segment_age
from bentos.runtime.rollouts.arms import UNEXPECTED, Arms, described
from bentos.runtime.rollouts.rollout import CHAMPION, Arm, Rollout, rollout_path
from bentos.runtime.rollouts.shadow import Shadows
from bentos.runtime.rollouts.watcher import Bundle, Watcher
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.inputs import Fields
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.release import Release, load_release
from bentos.runtime.scoring.table import Table
from bentos.runtime.scoring.wire import ANY, order
from bentos.runtime.shipping import shipper
from bentos.runtime.together import Together

EXPORT_S = 0.25  # how old the figures of other workers may be in a scrape

log = logging.getLogger("bentoflow.predictor")


class Predictor:
    """Answers for one use case from the releases that its rollout file names.

    `locate` gives the folder of a release tag. `release` is a tag that is champion while there is no rollout file.
    `settle` is called when the rollout changed and what it names is loaded.
    """

    def __init__(
        self,
        use_case: str,
        home: Path,
        locate: Callable[[str], Path],
        *,
        release: str | None = None,
        open_reader: Callable[[Manifest], Reader] | None = None,
        max_rows: int = 1024,
        max_queued: int = 50_000,
        fsync: bool = False,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.use_case, self.home = use_case, home
        self._settle = settle
        self._locate = locate
        self._open_reader = open_reader or self._feature_reader
        self._warm: Callable[[], None] = warm if open_reader is None else lambda: None
        self._journal = Journal(home / "journal" / use_case, max_age_s=segment_age(), fsync=fsync)
        self._shipper = shipper(self._journal, use_case)
        self._batcher: Batcher[batch.Asked, Fields, Answer | RowError] = Batcher(
            self._decide,
            max_rows=max_rows,
            max_queued=max_queued,
            quick=self._quick,
            observe=lambda rows: metrics.count_batch(use_case, rows),
        )
        self._arms = Arms(use_case)
        self._exports: asyncio.Task[None] | None = None
        self.watcher: Watcher[Release] = Watcher(
            rollout_path(home, use_case),
            self._load,
            on_change=self._report,
            fallback=Rollout((Arm(CHAMPION, release, 1.0),)) if release else None,
        )
        self._shadows = Shadows(use_case, home, locate)
        self.order = ANY  # of the features, where all arms have the same
        self._started = time.monotonic()
        self._answered = 0

    async def start(self) -> None:
        """Load the rollout's releases and begin to answer; without a release the service runs and says so."""
        metrics.metrics()
        metrics.forget_dead()
        await asyncio.to_thread(self.watcher.start)
        self._batcher.start()
        if self._shipper is not None:
            self._shipper.start()
        self._exports = asyncio.get_running_loop().create_task(self._export())
        if self.watcher.bundle is None:
            threading.Thread(target=self._warm, name="warm-up", daemon=True).start()

    async def stop(self) -> None:
        """Answer what waits, then close the journal's segment, and ship it where there is a bucket."""
        await self._batcher.stop()
        await asyncio.to_thread(self.watcher.stop)
        await asyncio.to_thread(self._shadows.stop)
        self._journal.close()
        if self._shipper is not None:
            await asyncio.to_thread(self._shipper.stop)
        if self._exports is not None:
            self._exports.cancel()
        metrics.export()

    async def answer(
        self,
        rows: Sequence[Fields],
        *,
        arm: str | None = None,
        smoke: bool = False,
        together: Together | None = None,
    ) -> Results:
        """Each row's answer or error, in order; Overloaded if they do not fit into the queue.

        `together`: none of the rows is journalled, and so none counts as answered, unless all of them are answered.
        """
        try:
            return join(await self._batcher.submit(rows, batch.Asked(arm or "", smoke, together)) or [()])
        except Overloaded:
            metrics.count_errors(self.use_case, [503])
            raise
        except Exception:
            log.exception("a batch of %s failed", self.use_case)
            metrics.count_errors(self.use_case, [500] * len(rows))
            return [RowError(500, UNEXPECTED) for _ in rows]

    def ready(self) -> tuple[bool, str]:
        """Whether a champion answers, and if not why."""
        bundle = self.watcher.bundle
        if bundle is not None and CHAMPION in bundle.arms:
            return True, "ok"
        if self.watcher.problem is not None:
            return False, self.watcher.problem
        return False, f"no release of {self.use_case} is in charge ({self.watcher.path}); run `bentoflow release`"

    def champion(self) -> tuple[Release, Path] | None:
        """The release in charge and its folder, None without one."""
        bundle = self.watcher.bundle
        served = None if bundle is None else bundle.arms.get(CHAMPION)
        if bundle is None or served is None:
            return None
        tag = next(arm.release for arm in bundle.rollout.arms if arm.name == CHAMPION)
        return served, self._locate(tag)

    def health(self) -> dict[str, Any]:
        """Version and release in charge, every arm, time and answers since start, the cache, the rollout's problem."""
        bundle = self.watcher.bundle
        champion = None if bundle is None else bundle.arms.get(CHAMPION)
        return {
            "status": "ok" if self.ready()[0] else "no release",
            "use_case": self.use_case,
            "version": None if champion is None else champion.model_version,
            "release": None if champion is None else champion.release,
            "arms": described(bundle) | self._shadows.health(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "answered": self._answered,
            "feature_cache": figures(caches(served.reader for served in bundle.arms.values())) if bundle else None,
            "problem": self.watcher.problem,
        }

    def _feature_reader(self, manifest: Manifest) -> Reader:
        return open_reader(self.home, manifest)

    def _load(self, tag: str) -> Release:
        return load_release(self._locate(tag), self.use_case, self._open_reader)

    async def _export(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_S)
            metrics.export()

    def _quick(self, parts: list[batch.Part]) -> bool:
        """Whether a batch waits for nothing: its rows bring their features, or those lie in a local file."""
        bundle = self.watcher.bundle
        if bundle is None or all(served.reader.local for served in bundle.arms.values()):
            return True
        return all(isinstance(rows, Table) or all(row.get("features") is not None for row in rows) for rows, _ in parts)

    def _decide(self, parts: list[batch.Part]) -> list[Results]:
        """One batch: each arm's rows read and scored at once, one write to the journal, then answers."""
        bundle = self.watcher.bundle  # once: the whole batch is answered by one rollout
        now = clock.now(self.home, self.use_case)
        counted = bundle is not None and bundle.split is not None

        def decided(arm: str, rows: Sequence[Fields], smoke: Sequence[bool]) -> Results:
            return self._arms.decide(self._decider(bundle, arm or CHAMPION), rows, smoke, now, counted=counted)

        done = batch.decide(parts, partial(self._arms.assigned, bundle), decided)
        try:
            self._journal.append(done.lines)
        except JournalError as error:
            log.error("not answered: %s", error)
            refused = RowError(503, "the journal cannot be written, so nothing is answered; retry later")
            done.results = [[r if isinstance(r, RowError) else refused for r in part] for part in done.results]
            done.counted, done.statuses = (
                [],
                [r.status for part in done.results for r in part if isinstance(r, RowError)],
            )
        self._count(done)
        if self._shadows.running:
            for (rows, asked), results in zip(parts, done.results, strict=True):
                if not asked.smoke:
                    self._shadows.offer(rows, results, now)
        return done.results

    def _count(self, done: batch.Batch) -> None:
        for answered in done.counted:
            self._answered += metrics.count_answers(self.use_case, answered)
        if done.statuses:
            metrics.count_errors(self.use_case, done.statuses)

    def _decider(self, bundle: Bundle[Release] | None, arm: str) -> Decider | RowError:
        if bundle is None or (arm == CHAMPION and arm not in bundle.arms):
            return RowError(503, self.ready()[1])
        return self._arms.decider(bundle, arm)

    def _report(self, bundle: Bundle[Release] | None, problem: str | None) -> None:
        metrics.metrics().problem.labels(self.use_case).set(0 if problem is None else 1)
        orders = {order(served.manifest) for served in (bundle.arms.values() if bundle is not None else ())}
        self.order = orders.pop() if len(orders) == 1 else ANY
        self._shadows.follow(None if bundle is None else bundle.rollout)
        if self._arms.follow(bundle):
            self._settle()
