"""Promises: the quality that a release's gates measured on its held-out rows, which windows and months are held to."""

import json

from bentos.runtime.scoring import manifest
from flows.steps.monitoring import kinds
from flows.steps.monitoring.kinds import Promise
from flows.steps.training.dossier import TRAINING
from flows.stores import bentos


def promised(release: str | None) -> Promise | None:
    """What a release promised; None without one, or where its gates could measure nothing."""
    if release is None:
        return None
    folder = bentos.model_folder(release)
    value = manifest.load(folder).metrics.get(kinds.METRIC)
    if value is None:
        return None
    facts = json.loads((folder / TRAINING).read_text())
    found = facts["intervals"][kinds.METRIC]
    return Promise(value=value, low=found["low"], high=found["high"], since=facts["test_cutoff"][:10])
