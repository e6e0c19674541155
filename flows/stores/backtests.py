"""Backtests on disk, below the home and apart from everything live: finished work by content hash, and results."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd

from bentos.runtime.home import replace as written
from bentos.runtime.monitoring import calibration, sketches
from bentos.runtime.scoring.manifest import MANIFEST, MODEL, REFERENCE, ManifestError, sha256
from bentos.runtime.scoring.scorer import Scorer
from flows.environment import ROOT
from flows.steps.backtesting.trained import Costed, Trained
from flows.steps.gating import gates
from flows.steps.monitoring import estimates
from flows.steps.monitoring.kinds import Promise
from flows.steps.training.arrays import Table
from flows.steps.training.search import Trial
from flows.stores import lineage, records, tables
from flows.usecases.spec import UseCase

FACTS, LATEST = "training.json", "latest.json"
CODE = (  # what a training and its verdict follow from, beside the rows
    "flows/steps/data/*.py",
    "flows/steps/gating/*.py",
    "flows/steps/monitoring/*.py",
    "flows/steps/training/*.py",
    "flows/steps/backtesting/trained.py",
    "bentos/runtime/scoring/*.py",
)
ELSEWHERE = ("source", "contract", "retraining", "title")  # fields of a use case that no training depends on


def folder(home: Path, use_case: str) -> Path:
    """Where a use case's backtests lie."""
    return home / "backtests" / use_case


@cache
def code_hash() -> str:
    """Of the source text that results follow from, and of the locked dependencies."""
    digest = hashlib.sha256(lineage.lock_hash().encode())
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key(*parts: Any) -> str:
    """Hash of what a piece of work follows from, the code's among it."""
    return hashlib.sha256(json.dumps([code_hash(), *parts], default=str).encode()).hexdigest()[:24]


def declared(case: UseCase, leave: Iterable[str] = ELSEWHERE) -> dict[str, str]:
    """What a use case declares, as text; functions are left out, for rows are hashed by their content."""
    values = {f.name: getattr(case, f.name) for f in dataclasses.fields(case) if f.name not in set(leave)}
    return {name: repr(v) for name, v in values.items() if not callable(v) and name != "further"}


def rows_hash(rows: Table) -> str:
    """Of the content of a table's rows."""
    frame = rows.frame().assign(_y=rows.y, _entity=rows.entities, _time=rows.times)
    return tables.content_hash(frame)


def save(place: Path, made: Costed[Trained]) -> None:
    """Keep a training as a folder, whole or not at all."""
    value = made.value
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        (draft / MODEL).write_bytes(value.model)
        (draft / REFERENCE).write_text(sketches.to_json(value.reference))
        (draft / calibration.FILE).write_text(calibration.to_json(value.known))
        if value.quality is not None:
            (draft / estimates.FILE).write_text(estimates.to_json(value.quality))
        facts = {"moment": value.moment.isoformat(), "recipe": asdict(value.recipe), "seconds": made.seconds}
        facts |= {name: getattr(value, name) for name in ("rows", "parity", "latency_us")}
        facts["promised"] = asdict(value.promised) if value.promised else None
        (draft / FACTS).write_text(json.dumps(facts))
        files = {p.name: sha256(p) for p in sorted(draft.iterdir())}
        (draft / MANIFEST).write_text(replace(value.manifest, files=files).dump())
        draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load(place: Path) -> Costed[Trained] | None:
    """The training that `save` kept; None if there is none. One that was altered is removed, to be done again."""
    if not place.exists():
        return None
    try:
        scorer = Scorer.load(place)
        facts = json.loads((place / FACTS).read_text())
        quality = place / estimates.FILE
        raw = facts["recipe"]
        made = Trained(
            moment=pd.Timestamp(facts["moment"]),
            recipe=Trial(estimator=raw["estimator"], params=raw["params"], folds=tuple(raw["folds"])),
            manifest=replace(scorer.manifest, files={}),
            model=(place / MODEL).read_bytes(),
            scorer=scorer,
            reference=sketches.from_json((place / REFERENCE).read_text()),
            known=calibration.from_json((place / calibration.FILE).read_text()),
            quality=estimates.from_json(quality.read_text()) if quality.exists() else None,
            promised=Promise(**facts["promised"]) if facts["promised"] else None,
            **{name: facts[name] for name in ("rows", "parity", "latency_us")},
        )
    except (OSError, ValueError, KeyError, TypeError, ManifestError):
        shutil.rmtree(place)
        return None
    return Costed(made, float(facts["seconds"]))


def save_verdict(place: Path, found: Costed[gates.Verdict]) -> None:
    """Keep what the gates said."""
    written(place, json.dumps({"verdict": gates.to_dict(found.value), "seconds": found.seconds}).encode())


def load_verdict(place: Path) -> Costed[gates.Verdict] | None:
    """What the gates said; None if it was not kept, or does not follow from its own results."""
    try:
        stored = json.loads(place.read_text())
        return Costed(gates.from_dict(stored["verdict"]), float(stored["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_result(home: Path, use_case: str, name: str, result: dict[str, Any]) -> Path:
    """Keep a finished backtest as JSON under its content's name, and point to it."""
    place = folder(home, use_case) / f"{name}.json"
    written(place, json.dumps(result, indent=1).encode())
    written(folder(home, use_case) / LATEST, json.dumps({"result": place.name}).encode())
    return place


def latest(home: Path, use_case: str) -> dict[str, Any] | None:
    """The result of the newest finished backtest; None if there is none, or it was removed."""
    pointer = folder(home, use_case) / LATEST
    remedy = "remove it, and run `bentoflow backtest` again"
    named = records.read(pointer, remedy)
    return records.read(pointer.parent / str(named.get("result")), remedy) if named else None
