"""A release as a service uses it: checked, loaded and tried on its golden rows before it may answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bentos.runtime.features.joined import Reader
from bentos.runtime.scoring.categories import rows_to_raw
from bentos.runtime.scoring.manifest import GOLDEN, Manifest
from bentos.runtime.scoring.scorer import Scorer, ScorerError

RELEASE = "release.json"  # {"release": id, "model_version": "3", ...}
MAX_GOLDEN_DIFFERENCE = 1e-5  # as the parity gate: processors differ in the last bits of float32


class ReleaseRefused(ValueError):
    """A release may not answer: not promoted, of another use case, or it does not score as it did when released."""


@dataclass(frozen=True)
class Release:
    """Everything that an arm answers with."""

    release: str
    model_version: str
    manifest: Manifest
    scorer: Scorer
    reader: Reader


def load_release(folder: Path, use_case: str, open_reader: Callable[[Manifest], Reader]) -> Release:
    """The release in a folder; ReleaseRefused or ManifestError unless everything about it is right."""
    scorer = Scorer.load(folder)
    manifest = scorer.manifest
    if manifest.verdict != "PROMOTE":
        reasons = f" ({'; '.join(manifest.reasons)})" if manifest.reasons else ""
        raise ReleaseRefused(
            f"{folder} has the verdict {manifest.verdict!r}{reasons}: only PROMOTE may answer; "
            "train a version that passes the gates"
        )
    if manifest.use_case != use_case:
        raise ReleaseRefused(f"{folder} is a release of {manifest.use_case!r}, this service answers for {use_case!r}")
    name, version = _identity(folder)
    check_golden(folder, scorer)
    return Release(name, version, manifest, scorer, open_reader(manifest))


def check_golden(folder: Path, scorer: Scorer) -> None:
    """Score the golden rows again; ReleaseRefused if a score moved or is not a number."""
    path = folder / GOLDEN
    if not path.is_file():
        raise ReleaseRefused(f"{folder} has no {GOLDEN}: its scores cannot be checked; release the version again")
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        expected = np.array(raw["scores"], dtype=np.float64)
        scores = scorer.score(rows_to_raw(raw["rows"], scorer.manifest))
    except (KeyError, TypeError, ScorerError, json.JSONDecodeError) as error:
        raise ReleaseRefused(f"{path} is not {{rows, scores}} of this model: {error!r}") from error
    if len(scores) != len(expected) or not len(scores):
        raise ReleaseRefused(
            f"{path} has {len(scores)} rows and {len(expected)} scores; it needs as many, and at least one"
        )
    difference = float(np.max(np.abs(scores - expected)))
    if not difference <= MAX_GOLDEN_DIFFERENCE:
        raise ReleaseRefused(
            f"{folder} scores its golden rows differently by {difference:.3g} "
            f"(allowed {MAX_GOLDEN_DIFFERENCE:g}): "
            "the model or the machine's runtime is not what it was"
        )


def _identity(folder: Path) -> tuple[str, str]:
    path = folder / RELEASE
    try:
        raw = json.loads(path.read_text())
        return str(raw["release"]), str(raw["model_version"])
    except FileNotFoundError as error:
        raise ReleaseRefused(f"no {RELEASE} in {folder}; run `bentoflow release`") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseRefused(f"{path} is not {{release, model_version}}: {error!r}") from error
