"""Parts: one per segment, release, arm and hour, written once; any window is their exact merge."""

import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.runtime import journal
from bentos.runtime.journal import Journal
from bentos.runtime.monitoring import sketches
from bentos.runtime.monitoring.sketches import OTHER
from flows.errors import StoreError
from flows.steps.monitoring import windows
from flows.stores import answers, parts, profiles
from flows.stores.parts import Subject
from flows.stores.profiles import datasketches
from flows.usecases.spec import Slice

NOW = datetime(1998, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALL = (NOW - 9 * DAY, NOW + 9 * DAY)


def record(number: int, at: datetime = NOW, **changes: Any) -> dict[str, Any]:
    given = {
        "request_id": f"{number:032x}",
        "time": at.isoformat(),
        "wall": at.isoformat(),
        "entity": number,
        "features": {"recency": float(number % 7), "spend": None if number % 3 else number / 10},
        "score": number % 10 / 10,
        "decision": ("Low", "High")[number % 2],
        "release": "churn:v1",
        "arm": "champion",
        "smoke": False,
    }
    return given | changes


def frame_of(records: list[dict[str, Any]]) -> Any:
    return answers.features_frame(records, ["recency", "spend"])


SUBJECT = Subject(
    release="churn:v1",
    names=("recency", "spend"),
    categorical=(),
    reference=sketches.to_json(sketches.reference(frame_of([record(i) for i in range(300)]))),
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "profiles"


@pytest.fixture
def log(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def finished(log: Journal, *records: dict[str, Any]) -> Path:
    log.append(list(records))
    log.close()
    return journal.segments(log.folder)[-1]


def counted(names: list[str], out: Path) -> int:
    return parts.window_of(names, out).sketches[0].n if names else 0


def test_any_window_of_any_segments_is_counted_exactly(log: Journal, out: Path) -> None:
    """Whatever the bounds, the parts' merge is what counting the window's answers at once gives, by day or not."""
    draw = random.Random(7)
    records = [record(i, NOW + draw.random() * 4 * DAY) for i in range(900)]
    paths = [finished(log, *records[i : i + 300]) for i in range(0, 900, 300)]
    for begin, end in ((0.0, 4.0), (0.5, 2.0), (1.0, 1.01), (0.123, 3.456)):
        since, until = NOW + begin * DAY, NOW + end * DAY
        names = sorted(name for path in paths for name in parts.profile(path, SUBJECT, since, until, out))
        wanted = [r for r in records if since <= datetime.fromisoformat(r["time"]) < until]
        whole = windows.count(frame_of(wanted), sketches.from_json(SUBJECT.reference), answers.identity_frame(wanted))
        assert parts.window_of(names, out) == whole
        assert parts.window_of([parts.merged(day, out) for day in parts.days(names)], out) == whole
        profile = parts.profile_of(names, out)
        assert profiles.sketch(profile, "decision", categories=("Low", "High", OTHER)).n == len(wanted)


def test_the_window_is_half_open(log: Journal, out: Path) -> None:
    """The first moment belongs to it, the last one does not."""
    path = finished(log, record(1, NOW - DAY), record(2), record(3, NOW + DAY), record(4, NOW + DAY / 2))
    assert counted(parts.profile(path, SUBJECT, NOW, NOW + DAY, out), out) == 2


def test_there_is_one_part_per_arm_and_hour_and_none_of_others(log: Journal, out: Path) -> None:
    """Smoke tests, shadows of any name and other releases are left out; arms and hours stand apart."""
    other = {"release": "churn:v2"}
    left_out = [record(9, smoke=True), record(9, **other), record(9, arm="shadow"), record(9, arm="shadow-b")]
    path = finished(log, record(1), record(2), record(3, arm="canary"), record(4, NOW + HOUR), *left_out)
    names = parts.profile(path, SUBJECT, *ALL, out)
    kept = [json.loads((out / f"{name}.json").read_text())["part"] for name in names]
    assert sorted((k["arm"], k["first"][11:13], k["rows"]) for k in kept) == [
        ("canary", "00", 1),
        ("champion", "00", 2),
        ("champion", "01", 1),
    ]
    assert counted(parts.profile(path, replace(SUBJECT, **other), *ALL, out), out) == 1


def test_raw_quantiles_stand_beside_the_binary(log: Journal, out: Path) -> None:
    """What a library that is gone could no longer tell is there in plain numbers: the values themselves at ranks."""
    records = [record(i) for i in range(101)]
    (name,) = parts.profile(finished(log, *records), SUBJECT, *ALL, out)
    kept = json.loads((out / f"{name}.json").read_text())["quantiles"]
    wanted = np.quantile([r["score"] for r in records], parts.QUANTILES, method="inverted_cdf")
    assert kept["score"] == wanted.tolist()
    assert set(kept) == {"recency", "spend", "score"}


def test_a_segment_that_did_not_change_is_not_read_again(log: Journal, out: Path) -> None:
    """Its parts are named without a look into it: what stands in its place with its size and time is not seen."""
    path = finished(log, record(1), record(2, NOW + HOUR))
    assert parts.known(path, SUBJECT, *ALL, out) is None
    names = parts.profile(path, SUBJECT, *ALL, out)
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert parts.known(path, SUBJECT, *ALL, out) == names
    assert parts.known(path, SUBJECT, NOW, NOW + HOUR, out) == names[:1]
    assert parts.known(path, SUBJECT, NOW + DAY, NOW + 2 * DAY, out) == []
    assert parts.known(path, replace(SUBJECT, release="churn:v2"), *ALL, out) == []


@pytest.mark.parametrize("lost", ["json", "bin", parts.SEGMENT])
def test_what_is_missing_is_written_again_with_the_same_bytes(log: Journal, out: Path, lost: str) -> None:
    """Killed between two files, or with a damaged record of what the segment holds, the next run completes it."""
    path = finished(log, record(1), record(2))
    (name,) = parts.profile(path, SUBJECT, *ALL, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    if lost == parts.SEGMENT:
        next(out.glob(f"*{lost}")).write_text('{"mark": [1')
    else:
        (out / f"{name}.{lost}").unlink()
    assert parts.known(path, SUBJECT, *ALL, out) is None
    assert parts.profile(path, SUBJECT, *ALL, out) == [name]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_segment_that_grows_is_counted_once_and_is_the_same_when_it_is_closed(log: Journal, out: Path) -> None:
    """An open segment's parts are replaced by those of the longer one; closing alone changes no name."""
    log.append([record(1)])
    (path,) = journal.segments(log.folder)
    first = parts.profile(path, SUBJECT, *ALL, out)
    log.append([record(2), record(3)])
    assert parts.known(path, SUBJECT, *ALL, out) is None
    second = parts.profile(path, SUBJECT, *ALL, out)
    assert not set(first) & set(second)
    assert (counted(first, out), counted(second, out)) == (1, 3)
    log.close()
    assert parts.known(path, SUBJECT, *ALL, out) == second  # by the name that it had when it was listed
    assert parts.known(journal.segments(log.folder)[0], SUBJECT, *ALL, out) == second


def test_half_a_line_of_a_killed_service_is_left_out(log: Journal, out: Path) -> None:
    """What was never answered counts neither now nor when it is gone."""
    path = finished(log, record(1))
    names = parts.profile(path, SUBJECT, *ALL, out)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert parts.known(path, SUBJECT, *ALL, out) is None
    assert parts.profile(path, SUBJECT, *ALL, out) == names


def test_another_reference_has_other_parts(log: Journal, out: Path) -> None:
    """Counts in the bins of another reference are never taken for this one's."""
    path = finished(log, record(1), record(2))
    names = parts.profile(path, SUBJECT, *ALL, out)
    coarse = sketches.to_json(sketches.reference(frame_of([record(i) for i in range(300)]), bins=2))
    other = replace(SUBJECT, reference=coarse)
    assert parts.known(path, other, *ALL, out) is None
    assert not set(parts.profile(path, other, *ALL, out)) & set(names)
    assert parts.known(path, SUBJECT, *ALL, out) == names


def test_another_library_has_other_parts(log: Journal, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that moves to a machine without whylogs is profiled anew, and never merges what it cannot read."""
    path = finished(log, record(1), record(2))
    names = parts.profile(path, SUBJECT, *ALL, out)
    monkeypatch.setattr(profiles, "maker", datasketches)
    assert parts.known(path, SUBJECT, *ALL, out) is None
    anew = parts.profile(path, SUBJECT, *ALL, out)
    assert not set(anew) & set(names)
    assert profiles.sketch(parts.profile_of(anew, out), "recency").n == counted(anew, out) == 2


def test_scores_of_declared_slices_are_columns(log: Journal, out: Path) -> None:
    """The profile has them beside the features; with other slices the part is another one."""
    path = finished(log, *[record(i) for i in range(14)])
    sliced = replace(SUBJECT, slices=(Slice(feature="recency", edges=(0, 3)),))
    names = parts.profile(path, sliced, *ALL, out)
    found = profiles.remembered(parts.profile_of(names, out))
    apart = {"score in recency [0, 3)", "score in recency [3, inf)"}
    assert set(found) == {"recency", "spend", "score", "decision", *apart}
    assert profiles.sketch(parts.profile_of(names, out), "score in recency [0, 3)").counts == (6,)
    assert not set(names) & set(parts.profile(path, SUBJECT, *ALL, out))


def test_only_what_no_check_asks_for_again_is_swept(log: Journal, out: Path, tmp_path: Path) -> None:
    """Once a day old: parts of the shorter segment, cut parts, half files; merges of days after eight days unused."""
    assert parts.sweep(tmp_path / "nothing", 0.0) == []
    log.append([record(1)])
    (path,) = journal.segments(log.folder)
    superseded = parts.profile(path, SUBJECT, *ALL, out)
    log.append([record(2, NOW + HOUR / 2)])
    names = parts.profile(path, SUBJECT, *ALL, out)
    cut = parts.profile(path, SUBJECT, NOW, NOW + HOUR / 4, out)
    day = parts.merged(names, out)
    (out / ".half.json.x7").write_text("{")
    (out / "window.bin").write_bytes(b"")
    log.close()
    path.with_name(path.name.removesuffix(journal.OPEN)).unlink()  # the journal was shortened: its history stays
    moment = (out / f"{day}.json").stat().st_mtime
    assert parts.sweep(out, moment + 3_600) == []
    unreadable = out / f"other{parts.SEGMENT}"
    unreadable.write_text("{")
    gone = parts.sweep(out, moment + 2 * 86_400)  # whose parts the others are nobody knows
    assert sorted(gone) == sorted([".half.json.x7", *(f"{n}.{e}" for n in cut for e in ("bin", "json"))])
    unreadable.unlink()
    gone = parts.sweep(out, moment + 2 * 86_400)
    assert sorted(gone) == sorted(f"{n}.{e}" for n in superseded for e in ("bin", "json"))
    assert sorted(parts.sweep(out, moment + 9 * 86_400)) == [f"{day}.bin", f"{day}.json"]
    assert counted(names, out) == 2


@pytest.mark.parametrize("ending", ["json", "bin"])
def test_a_corrupt_part_is_named_and_made_again_once_removed(log: Journal, out: Path, ending: str) -> None:
    """A file that was cut off is an error with its path; without it the part is written from the journal as it was."""
    path = finished(log, *[record(i, NOW + i * HOUR) for i in range(3)])
    names = parts.profile(path, SUBJECT, *ALL, out)
    broken = out / f"{names[1]}.{ending}"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=f"{broken} is corrupt: .*; remove it: the next check makes it again"):
        parts.window_of(names, out) if ending == "json" else parts.profile_of(names, out)
    broken.unlink()
    assert parts.known(path, SUBJECT, *ALL, out) is None
    assert parts.profile(path, SUBJECT, *ALL, out) == names
    assert broken.read_bytes() == whole
