"""The manifest: everything that an answer depends on, in one immutable value beside the model's file."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bentos.runtime.scoring.request import RequestFeature

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.json"  # {"rows": [{feature: value or null}], "scores": [float]}
REFERENCE = "reference.json"  # column sketches of the holdout's features and scores
REFERENCE_PROFILE = "reference.bin"
OMITTED = ("others", "request", "time", "thresholds")  # while empty: hashes of manifests without them stay as they are


class ManifestError(ValueError):
    """A release folder is incomplete, altered or of another format."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A number: `log1p` where `log`, then `(value - mean) / scale`; a missing value becomes `fill` first.

    With `categories` it is a text: one 0/1 input for each of them, in order, null being a missing value where training
    rows had any; with `rest` one more for every other value, among them the categories too rare for an input of their
    own. Without `rest` any other value, never seen or missing, is all zeros.
    """

    name: str
    fill: float
    mean: float
    scale: float
    log: bool = False
    categories: tuple[str | None, ...] = ()
    rest: bool = False

    @property
    def width(self) -> int:
        """How many of the model's inputs it becomes."""
        return len(self.categories) + self.rest if self.categories else 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ties a model to its inputs, threshold, reference and origin; written by train, read everywhere.

    `others` are keys of further entities of a row, `request` the inputs that it brings itself (the last of `features`),
    `time` the field with its own time, if it has one. `thresholds` rise, one between each two of `risks`; the decision
    is taken at `threshold`, which is one of them. Without them there are two risks.
    """

    format: int = 1
    use_case: str
    entity: str
    feature_service: str
    features: tuple[Feature, ...]
    threshold: float
    risks: tuple[str, ...]
    stale: Literal["reject", "default", "flag"]
    engine: str
    estimator: str
    run_id: str
    as_of: str
    snapshot: str
    commit: str
    lock: str
    seed: int
    verdict: str
    reasons: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # file name -> sha256
    others: tuple[str, ...] = ()
    request: tuple[RequestFeature, ...] = ()
    time: str = ""
    thresholds: tuple[float, ...] = ()

    @property
    def names(self) -> list[str]:
        """Feature names in order."""
        return [f.name for f in self.features]

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the features that are texts."""
        return tuple(f.name for f in self.features if f.categories)

    @property
    def keys(self) -> tuple[str, ...]:
        """The join keys of every entity of a row, the main one first."""
        return (self.entity, *self.others)

    @property
    def cuts(self) -> tuple[float, ...]:
        """The thresholds between the risks, rising."""
        return self.thresholds or (self.threshold,)

    @property
    def stored(self) -> list[str]:
        """Names of the features that the feature store has, in order."""
        return self.names[: len(self.names) - len(self.request)]

    def digest(self) -> str:
        """sha256 of the canonical JSON, hex."""
        return hashlib.sha256(self.dump().encode()).hexdigest()

    def dump(self) -> str:
        """Canonical JSON: sorted keys, no NaN."""
        content = {name: value for name, value in asdict(self).items() if value or name not in OMITTED}
        numeric = ("categories", "rest")  # absent from a number, as they were before there were texts
        content["features"] = [
            {k: v for k, v in f.items() if f["categories"] or k not in numeric} for f in content["features"]
        ]
        return json.dumps(content, sort_keys=True, allow_nan=False, indent=1)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse(text: str) -> Manifest:
    """Manifest from its JSON; ManifestError if a key is unknown, absent or the format is newer."""
    try:
        raw: dict[str, Any] = json.loads(text)
        if raw.get("format") != 1:
            raise ManifestError(f"manifest format {raw.get('format')!r} is not 1: use the bentoflow that wrote it")
        raw["features"] = tuple(_feature(f) for f in raw["features"])
        raw["risks"] = tuple(raw["risks"])
        raw["reasons"] = tuple(raw["reasons"])
        raw["request"] = tuple(RequestFeature(**f) for f in raw.get("request", ()))
        for name in ("others", "thresholds"):
            raw[name] = tuple(raw.get(name, ()))
        manifest = Manifest(**raw)
        if len(manifest.cuts) != len(manifest.risks) - 1:
            raise ManifestError(
                f"{len(manifest.risks)} risks with {len(manifest.cuts)} thresholds: one less is needed; train again"
            )
        return manifest
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ManifestError(f"not a manifest: {error}") from error


def _feature(raw: dict[str, Any]) -> Feature:
    feature = Feature(**raw | {"categories": tuple(raw.get("categories", ()))})
    known = feature.categories
    if len(set(known)) < len(known) or not all(c is None or isinstance(c, str) for c in known):
        raise ManifestError(f"the categories of {feature.name} are not texts, each one once; train again")
    return feature


def load(folder: Path) -> Manifest:
    """The manifest of a release folder, every file's hash checked; ManifestError names the one that differs."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ManifestError(f"no {MANIFEST} in {folder}: not a release; run `bentoflow release`")
    manifest = parse(path.read_text())
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ManifestError(f"{folder} lacks {name}, which its manifest lists; release the version again")
        if (found := sha256(file)) != expected:
            raise ManifestError(f"{file} has sha256 {found[:12]}, the manifest says {expected[:12]}: it was altered")
    return manifest
