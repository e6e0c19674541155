"""Parts: what a journal segment holds of one release, arm and hour: counts, profile and quantiles.

A part is a pure function of its segment's bytes and of the release's reference, and its name says which: it is written
once, and any window is a merge of parts. A segment is read again only when it grew; then its parts have other names,
so that no answer is counted twice. Parts of a segment that the journal no longer has stay as history, and count in no
window.
"""

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from bentos.runtime import journal
from bentos.runtime.home import replace
from bentos.runtime.monitoring import sketches
from bentos.runtime.monitoring.measures import Sketch
from flows.errors import StoreError
from flows.steps.monitoring import segments, windows
from flows.stores import answers, profiles
from flows.usecases.spec import Slice

SEGMENT = ".segment.json"  # what a segment holds: how its parts are found without reading it
CUT = "-cut"  # of a part that a window's first or last moment cuts out of an hour
PART = re.compile(r"\d{8}T\d\d-(?P<digest>[0-9a-f]{24})-[0-9a-f]{16}(?P<cut>-cut)?\.(json|bin)")
DAY = re.compile(r"day-\d{8}-[0-9a-f]{16}\.(json|bin)")
SHAPE = [field.name for kind in (windows.Window, Sketch) for field in fields(kind)]  # other code, other names
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
DAY_S = 86_400.0
UNUSED_S = 8 * DAY_S  # a weekly check finds the merges of its days again

Records = list[dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose answers are counted, and in which bins."""

    release: str
    names: tuple[str, ...]
    categorical: tuple[str, ...]
    reference: str  # sketches in JSON
    slices: tuple[Slice, ...] = ()  # whose scores are kept apart


@dataclass(frozen=True, kw_only=True)
class Group:
    """The answers of a segment by one release and arm within an hour, from the first to the last; times in UTC."""

    release: str
    arm: str
    first: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a segment held when it had so many bytes: a hash of its whole lines, and the groups of their answers."""

    mark: journal.Mark
    digest: str
    groups: tuple[Group, ...]


def known(path: Path, subject: Subject, since: datetime, until: datetime, folder: Path) -> list[str] | None:
    """The names of a segment's parts in a window, None if it has to be read for one of them."""
    found = _kept(path, folder)
    if found is None:
        return None
    begin, end = _moment(since), _moment(until)
    groups = _of(found, subject, begin, end)
    whole = [_name(found, group, subject) for group in groups if begin <= group.first and group.last < end]
    return whole if len(whole) == len(groups) and all(_exists(folder, name) for name in whole) else None


def profile(path: Path, subject: Subject, since: datetime, until: datetime, folder: Path) -> list[str]:
    """Write what is missing of a segment's parts in a window; the names of all of them."""
    mark = journal.mark(path)
    data = journal.head(path, mark.size)
    hours: dict[tuple[str, str, str], Records] = {}
    for record in journal.parse(io.BytesIO(data), path):
        if answers.answered(record):
            at = _moment(datetime.fromisoformat(record["time"]))
            hours.setdefault((record["release"], record["arm"], at[:13]), []).append(record | {"time": at})
    digest, groups = hashlib.sha256(data).hexdigest()[:24], tuple(map(_group, hours.values()))
    found = Inventory(mark=mark, digest=digest, groups=groups)
    replace(_inventory(path, folder), json.dumps(asdict(found)).encode())
    begin, end = _moment(since), _moment(until)
    names = []
    for rows in hours.values():
        inside = [r for r in rows if r["release"] == subject.release and begin <= r["time"] < end]
        if inside:
            names.append(_name(found, _group(inside), subject) + (CUT if len(inside) < len(rows) else ""))
            if not _exists(folder, names[-1]):
                _write(folder, names[-1], inside, subject)
    return names


def days(names: Sequence[str]) -> list[list[str]]:
    """The names by day, in order."""
    by: dict[str, list[str]] = {}
    for name in sorted(names):
        by.setdefault(name[:8], []).append(name)
    return list(by.values())


def merged(names: Sequence[str], folder: Path) -> str:
    """The name of the merge of those parts of a day, which is written if it is not there."""
    name = f"day-{names[0][:8]}-{_hash('|'.join(names))}"
    if _exists(folder, name):
        for ending in ("bin", "json"):
            os.utime(folder / f"{name}.{ending}")  # used today: `sweep` leaves it
        return name
    replace(folder / f"{name}.bin", profile_of(names, folder))
    replace(folder / f"{name}.json", windows.to_json(window_of(names, folder)).encode())
    return name


def window_of(names: Sequence[str], folder: Path) -> windows.Window:
    """The counts of parts, or of merges of them, as one window."""
    kept = [folder / f"{name}.json" for name in names]
    return windows.merge([_parsed(path, path.read_bytes(), windows.from_json) for path in kept])


def profile_of(names: Sequence[str], folder: Path) -> bytes:
    """The profile of parts, or of merges of them."""
    kept = {path: path.read_bytes() for path in (folder / f"{name}.bin" for name in names)}
    try:
        return profiles.merge(list(kept.values()))
    except StoreError:
        for path, content in kept.items():
            _parsed(path, content, profiles.remembered)
        raise


def _parsed(path: Path, content: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(content)
    except (StoreError, ValueError) as error:
        raise StoreError(f"{path} is corrupt: {error}; remove it: the next check makes it again") from error


def sweep(folder: Path, now: float) -> list[str]:
    """Remove the files that no check will ask for again; `now` in seconds since 1970. Gives their names.

    These are, once a day old, parts of a segment that has grown since, cut parts and what a killed process left half
    written, and merges of days that were not used for `UNUSED_S`. While its segment is there each can be made again.
    """
    if not folder.exists():
        return []
    present, gone = _digests(folder), []
    for path in sorted(folder.iterdir()):
        part = PART.fullmatch(path.name)
        left = part and (part["cut"] or (present is not None and part["digest"] not in present))
        limit = UNUSED_S if DAY.fullmatch(path.name) else DAY_S if left or path.name.startswith(".") else math.inf
        with suppress(FileNotFoundError):  # another check swept it
            if now - path.stat().st_mtime > limit:
                path.unlink()
                gone.append(path.name)
    return gone


def _digests(folder: Path) -> set[str] | None:
    """Every segment that is known, those that the journal no longer has too; None if one cannot be read."""
    try:
        return {json.loads(path.read_text())["digest"] for path in folder.glob(f"*{SEGMENT}")}
    except (KeyError, TypeError, ValueError):
        return None


def _of(found: Inventory, subject: Subject, begin: str, end: str) -> list[Group]:
    """The groups of a segment that have answers of the subject in the window, or may have."""
    return [g for g in found.groups if g.release == subject.release and g.first < end and g.last >= begin]


def _kept(path: Path, folder: Path) -> Inventory | None:
    """What is known of a segment as it is now; None if it is new or grew."""
    try:
        raw = json.loads(_inventory(path, folder).read_text())
        groups = tuple(Group(**group) for group in raw["groups"])
        found = Inventory(mark=journal.Mark(*raw["mark"]), digest=raw["digest"], groups=groups)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    return found if found.mark == journal.mark(path) else None


def _inventory(path: Path, folder: Path) -> Path:
    return folder / (path.name.removesuffix(journal.OPEN).removesuffix(".jsonl") + SEGMENT)


def _group(rows: Records) -> Group:
    times = [row["time"] for row in rows]
    return Group(release=rows[0]["release"], arm=rows[0]["arm"], first=min(times), last=max(times))


def _name(found: Inventory, group: Group, subject: Subject) -> str:
    """Hour, segment and a hash of all else that a part depends on."""
    rest = _hash(json.dumps([profiles.maker.NAME, SHAPE, asdict(group), asdict(subject)]))
    return f"{group.first[:13].replace('-', '')}-{found.digest}-{rest}"


def _write(folder: Path, name: str, rows: Records, subject: Subject) -> None:
    """The part's profile, then its counts, and beside them quantiles that outlive any library."""
    frame = answers.features_frame(rows, subject.names, subject.categorical)
    counts = windows.count(frame, sketches.from_json(subject.reference), answers.identity_frame(rows))
    beside = {
        "part": {**asdict(_group(rows)), "rows": len(rows), "reference": _hash(subject.reference)},
        "quantiles": {str(n): _quantiles(frame[n]) for n in frame if n not in subject.categorical},
    }
    decided = pd.Series([r.get("decision") for r in rows], dtype=object)
    kept = segments.apart(frame, subject.slices).assign(decision=decided)
    replace(folder / f"{name}.bin", profiles.profile(kept))
    text = json.dumps({**json.loads(windows.to_json(counts)), **beside}, sort_keys=True)
    replace(folder / f"{name}.json", text.encode())


def _quantiles(column: pd.Series) -> list[float]:
    """The values at `QUANTILES` of the finite numbers, [] for none."""
    values = column[np.isfinite(column)].to_numpy()
    return [float(x) for x in np.quantile(values, QUANTILES, method="inverted_cdf")] if values.size else []


def _exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.json").exists() and (folder / f"{name}.bin").exists()


def _moment(at: datetime) -> str:
    """A moment in UTC, to the microsecond, so that texts are in the order of time."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
