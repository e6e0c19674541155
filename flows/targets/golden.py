"""A release's golden rows: what it is asked for wherever it comes up, and must answer exactly as at its training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bentos.runtime.scoring import manifest
from bentos.runtime.scoring.manifest import GOLDEN
from flows.errors import ReleaseError


@dataclass(frozen=True)
class Golden:
    """The rows of a release: their keys by name, their features, and the scores of its training."""

    keys: list[dict[str, Any]]
    features: list[dict[str, Any]]
    scores: list[float]

    def check(self, answers: Sequence[Mapping[str, Any]], release: str) -> int:
        """How many rows were answered with their score; ReleaseError with the first one that was not."""
        if len(answers) != len(self.scores):
            raise ReleaseError(f"{release} answers {len(answers)} of {len(self.scores)} golden rows")
        for i, (answer, expected) in enumerate(zip(answers, self.scores, strict=True)):
            if answer.get("probability") != expected:
                raise ReleaseError(
                    f"golden row {i} of {release}: the service answers {answer.get('probability', answer)}, "
                    f"training said {expected}. "
                    "Nothing was released; compare the versions of onnxruntime"
                )
        return len(answers)


def read(folder: Path) -> Golden:
    """The golden rows of a release's folder; ManifestError if they were altered."""
    entity = manifest.load(folder).entity
    kept = json.loads((folder / GOLDEN).read_text())
    others = kept.get("others", {})
    keys = [{entity: e, **{name: ids[i] for name, ids in others.items()}} for i, e in enumerate(kept["entities"])]
    return Golden(keys, kept["rows"], kept["scores"])


def told(rows: int, *, by: str, signed: bool = False) -> str:
    """What was seen, in a sentence."""
    return f"{rows} golden rows answered exactly by {by}{', its signature verified' if signed else ''}"
