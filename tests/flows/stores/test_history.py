"""History: append-only, whole lines only, and readable after a machine lost power."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.errors import StoreError
from flows.stores import history

AT = datetime(1998, 1, 1, tzinfo=UTC)


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    """Each line holds its action, the use case's time, the wall time and the facts."""
    first = history.append(tmp_path, "churn", "trained: PROMOTE", at=AT, version="1", reasons=["good"])
    second = history.append(tmp_path, "churn", "promoted", at=AT, version="1", folder=Path("/x"))
    lines = history.read(tmp_path, "churn")
    assert lines == [first, {**second, "folder": "/x"}]
    assert lines[0]["at"] == "1998-01-01T00:00:00+00:00"
    assert datetime.fromisoformat(lines[0]["wall"]).tzinfo is not None


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    """A use case that nothing happened to has no lines, and another one's are not its own."""
    history.append(tmp_path, "fraud", "promoted", at=AT)
    assert history.read(tmp_path, "churn") == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """What a machine that lost power wrote of a last line is no line, the ones before are."""
    kept = history.append(tmp_path, "churn", "promoted", at=AT, version="1")
    with history.path(tmp_path, "churn").open("a") as file:
        file.write('{"action": "rolled b')
    assert history.read(tmp_path, "churn") == [kept]


def test_after_a_torn_line_the_history_goes_on(tmp_path: Path) -> None:
    """The next line does not run into the torn one: both whole lines are read."""
    first = history.append(tmp_path, "churn", "promoted", at=AT, version="1")
    with history.path(tmp_path, "churn").open("a") as file:
        file.write('{"action": "rolled b')
    second = history.append(tmp_path, "churn", "promoted", at=AT, version="2")
    assert history.read(tmp_path, "churn") == [first, second]


def test_nobody_loses_a_line_to_another_writer(tmp_path: Path) -> None:
    """Flows that append at the same time, a drift check beside a release, all find their lines afterwards."""

    def write(writer: int) -> None:
        for number in range(40):
            history.append(tmp_path, "churn", "feedback", at=AT, writer=writer, number=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = [(line["writer"], line["number"]) for line in history.read(tmp_path, "churn")]
    assert sorted(found) == [(writer, number) for writer in range(4) for number in range(40)]


def test_text_with_line_ends_stays_one_line(tmp_path: Path) -> None:
    """A reason of several lines is one line of history."""
    history.append(tmp_path, "churn", "reverted", at=AT, reason="one\ntwo\u2028three")
    (line,) = history.read(tmp_path, "churn")
    assert line["reason"] == "one\ntwo\u2028three"


@pytest.mark.parametrize("line", [b'{"action": "promoted", "at"\n', b"\xff\x00\n", b"7\n", b"{}\n"])
def test_a_corrupt_line_is_named(tmp_path: Path, line: bytes) -> None:
    """A line in the middle that is no entry is an error with file, line and what to do, and is never skipped."""
    history.append(tmp_path, "churn", "promoted", at=AT, version="1")
    with history.path(tmp_path, "churn").open("ab") as file:
        file.write(line)
    history.append(tmp_path, "churn", "promoted", at=AT, version="2")
    with pytest.raises(StoreError, match=r"churn\.jsonl, line 2 is corrupt.*restore it, or remove the line"):
        history.read(tmp_path, "churn")
