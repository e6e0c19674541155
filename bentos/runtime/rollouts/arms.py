"""The arms of a service: which release decides a row, each arm's part of a batch, and what is told of them."""

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bentos.runtime import metrics
from bentos.runtime.answers import Results, RowError
from bentos.runtime.rollouts.rollout import CHAMPION
from bentos.runtime.rollouts.watcher import Bundle
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.inputs import Fields
from bentos.runtime.scoring.release import Release

UNEXPECTED = "an unexpected error, see the server's log"

log = logging.getLogger("bentoflow.predictor")


class Arms:
    """The deciders of a use case's arms, made when the rollout changes."""

    def __init__(self, use_case: str) -> None:
        self._use_case = use_case
        self._deciders: dict[str, Decider] = {}
        self._reported: dict[str, tuple[str, str, str, str]] = {}

    def assigned(self, bundle: Bundle[Release] | None, rows: Sequence[Fields], named: Sequence[str]) -> Sequence[str]:
        """The arm of each row; "" for the champion where nobody named it, which is all unless there is a canary."""
        if bundle is None or bundle.split is None:
            return named
        entity = bundle.arms[CHAMPION].manifest.entity
        return bundle.split.assigned([row.get(entity) for row in rows], named)

    def decide(
        self,
        decider: Decider | RowError,
        rows: Sequence[Fields],
        smoke: Sequence[bool],
        now: datetime,
        *,
        counted: bool,
    ) -> Results:
        """One arm's part of a batch; an arm that raises fails its own rows only. `counted` goes to the metrics."""
        if isinstance(decider, RowError):
            return [decider] * len(rows)
        began = time.perf_counter() if counted else 0.0
        decided: Results
        try:
            decided = decider.decide(rows, smoke, now)
        except Exception:
            log.exception("%s failed on %d rows", decider.served.release, len(rows))
            decided = [RowError(500, UNEXPECTED)] * len(rows)
        if counted and not all(smoke):
            labels = (self._use_case, decider.arm, decider.served.release)
            metrics.count_part(labels, time.perf_counter() - began, decided)
        return decided

    def decider(self, bundle: Bundle[Release], arm: str) -> Decider | RowError:
        """Who decides for an arm, or why nobody does."""
        if (served := bundle.arms.get(arm)) is None:
            known = ", ".join(bundle.arms)
            return RowError(400, f"no arm {arm!r:.60} in the rollout; known: {known}", {"field": "x-bentoflow-arm"})
        found = self._deciders.get(arm)
        if found is None or found.served is not served:
            found = self._deciders[arm] = Decider(arm, served)
        return found

    def follow(self, bundle: Bundle[Release] | None) -> bool:
        """Tell the metrics which releases are loaded and let go of the others; whether anything changed."""
        arms = {} if bundle is None else bundle.arms
        current = {name: (self._use_case, name, r.release, r.model_version) for name, r in arms.items()}
        gauge = metrics.metrics().release
        for labels in set(self._reported.values()) - set(current.values()):
            gauge.labels(*labels).set(0)
        for labels in current.values():
            gauge.labels(*labels).set(1)
        for name in set(self._deciders) - set(current):
            self._deciders.pop(name, None)  # a removed arm's model is not kept
        changed, self._reported = current != self._reported, current
        return changed


def described(bundle: Bundle[Release] | None) -> dict[str, dict[str, Any]]:
    """Release, version and share of each loaded arm, by name."""
    weights = {arm.name: arm.weight for arm in bundle.rollout.arms} if bundle is not None else {}
    return {
        name: {"release": served.release, "version": served.model_version, "weight": weights[name]}
        for name, served in (bundle.arms.items() if bundle is not None else ())
    }
