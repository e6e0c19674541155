"""A table that somebody brings, beside a release's reference: what a check of drift says of it, without a journal."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from bentos.runtime.monitoring import calibration, drift, rules, signatures, sketches
from bentos.runtime.monitoring.calibration import Calibration
from bentos.runtime.monitoring.drift import ColumnDrift
from bentos.runtime.monitoring.measures import Sketch
from bentos.runtime.monitoring.rules import DriftRules
from bentos.runtime.scoring.manifest import REFERENCE

Columns = dict[str, list[Any]]


class NoReference(LookupError):
    """A release folder keeps nothing to compare with."""


@dataclass(frozen=True)
class Standard:
    """What a release keeps to be compared with."""

    reference: tuple[Sketch, ...]
    known: Calibration | None
    rules: DriftRules


@lru_cache(maxsize=4)
def standard(folder: Path) -> Standard:
    """The standard in a release's folder; the usual rules where it is older than they are kept."""
    try:
        reference = sketches.from_json((folder / REFERENCE).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise NoReference(f"the release keeps no reference: {error!r}; train it again") from error
    if not reference:
        raise NoReference("the release's reference has no column; train it again")
    kept = {name: folder / name for name in (calibration.FILE, rules.FILE)}
    known = kept[calibration.FILE]
    declared = kept[rules.FILE]
    return Standard(
        reference,
        calibration.from_json(known.read_text()) if known.exists() else None,
        rules.from_json(declared.read_text()) if declared.exists() else DriftRules(),
    )


def compared(columns: Columns, standard: Standard) -> dict[str, Any]:
    """The verdict on a table of at least one of the reference's columns, and what it is made of.

    Unlike a check of the journal it knows neither earlier windows nor quality, so that of drift it tells a broken pipe
    only (`data_bug`); whether any other drift is benign or harmful is null.
    """
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    there = tuple(sketch for sketch in standard.reference if sketch.name in columns)
    window = sketches.bin_counts(frame, there)
    verdict = drift.compare(there, window, standard.rules, standard.known)
    signs = signatures.find(there, window, (), standard.rules)  # rows without a name may be equal
    kind: str | None = verdict.state if verdict.state != "drift" else None
    if signs and verdict.state != "not_enough_data":
        kind = "data_bug"
    return {
        "rows": verdict.n,
        "min_rows": standard.rules.min_rows,
        "state": verdict.state,
        "kind": kind,
        "reasons": list(verdict.reasons),
        "signatures": [{"name": s.name, "column": s.column or None, "text": s.text} for s in signs],
        "columns": [_column(column, standard.rules) for column in verdict.columns],
        "absent": [sketch.name for sketch in standard.reference if sketch.name not in columns],
    }


def _column(found: ColumnDrift, limits: DriftRules) -> dict[str, Any]:
    """One column's effect sizes, each with its limit; the chance of as large ones without drift; the judgement."""
    effects = {
        "psi": (found.psi, limits.max_psi + found.psi_noise),
        "ks": (found.ks, limits.max_ks),
        "shift": (found.shift, limits.max_shift),
        "missing_change": (found.missing_change, limits.max_missing_change),
        "unseen_share": (found.unseen_share, limits.max_unseen_share),
    }
    return {
        "name": found.name,
        "type": found.kind,
        "rows": found.n,
        "drifted": found.drifted,
        "reason": found.reason or None,
        "chance": found.p,
        "effects": {name: {"value": value, "limit": limit} for name, (value, limit) in effects.items()},
        "jensen_shannon": found.jensen_shannon,
    }
