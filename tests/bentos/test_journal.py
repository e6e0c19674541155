"""The journal."""

import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bentos.runtime import journal
from bentos.runtime.journal import Journal, JournalError


def records(count: int, start: int = 0) -> list[dict]:
    return [
        {"request_id": f"{i}", "time": f"2024-01-{1 + i % 28:02d}T00:00:00+00:00", "smoke": False, "note": "x" * 50}
        for i in range(start, start + count)
    ]


def ids(folder: Path) -> list[str]:
    return [r["request_id"] for r in journal.scan(folder)]


def test_what_is_appended_is_read_back_in_order_before_and_after_closing(tmp_path):
    """Records are there as soon as append returns; closing only renames the segment."""
    book = Journal(tmp_path)
    book.append(records(3))
    assert [p.suffix for p in journal.segments(tmp_path)] == [".open"]
    assert ids(tmp_path) == ["0", "1", "2"]
    book.close()
    assert [p.suffix for p in journal.segments(tmp_path)] == [".jsonl"]
    assert ids(tmp_path) == ["0", "1", "2"]


def test_one_append_is_one_write(tmp_path, monkeypatch):
    """A batch reaches the file in one system call, so a kill cannot split it from its answers."""
    calls = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: calls.append(len(data)) or real(fd, data))
    Journal(tmp_path).append(records(200))
    assert len(calls) == 1


def test_segments_rotate_by_size_and_by_age(tmp_path):
    """A segment that is large or old is finished at the next append."""
    book = Journal(tmp_path, max_bytes=200)
    for i in range(4):
        book.append(records(3, i * 3))
    assert len(journal.segments(tmp_path)) == 4
    old = Journal(tmp_path / "aged", max_age_s=0.0)
    old.append(records(1))
    old.append(records(1, 1))
    assert len(journal.segments(tmp_path / "aged")) == 2
    assert ids(tmp_path) == [str(i) for i in range(12)]


def test_a_torn_last_line_is_left_out(tmp_path):
    """What a killed process had half written was never answered and is not read."""
    book = Journal(tmp_path)
    book.append(records(3))
    segment = journal.segments(tmp_path)[0]
    content = segment.read_bytes()
    for cut in (1, 20, 60):
        segment.write_bytes(content[:-cut])
        assert ids(tmp_path) == ["0", "1"]


def test_a_corrupt_line_is_an_error_with_file_and_line(tmp_path):
    """A damaged line inside a segment is never skipped silently."""
    book = Journal(tmp_path)
    book.append(records(3))
    segment = journal.segments(tmp_path)[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + lines[1][:10] + b"\x00\n" + lines[2])
    with pytest.raises(JournalError, match=rf"{segment.name}, line 2 is corrupt"):
        ids(tmp_path)


def test_scan_filters_by_the_domain_time_and_leaves_smoke_tests_out(tmp_path):
    """`since` is inclusive, `until` exclusive; smoke tests only on request."""
    book = Journal(tmp_path)
    book.append([*records(10), {**records(1)[0], "request_id": "s", "smoke": True}])
    found = journal.scan(tmp_path, since=datetime(2024, 1, 3, tzinfo=UTC), until=datetime(2024, 1, 5, tzinfo=UTC))
    assert [r["request_id"] for r in found] == ["2", "3"]
    assert "s" in [r["request_id"] for r in journal.scan(tmp_path, include_smoke=True)]
    assert "s" not in ids(tmp_path)


def test_a_segment_renamed_while_it_is_listed_is_still_read(tmp_path):
    """Listing and reading race with rotation without losing records."""
    book = Journal(tmp_path)
    book.append(records(2))
    listed = journal.segments(tmp_path)[0]
    book.close()
    assert len(list(journal.read(listed))) == 2


def test_threads_never_mix_their_lines(tmp_path):
    """Many threads append at once and every record comes back whole, exactly once."""
    book = Journal(tmp_path, max_bytes=20_000)
    threads = [
        threading.Thread(target=lambda k=k: [book.append(records(5, k * 1000 + i * 5)) for i in range(40)])
        for k in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(map(int, ids(tmp_path))) == sorted(k * 1000 + i for k in range(8) for i in range(200))


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """A file system of 64 kB, or a limit on file size where mounting is not allowed."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
        ).returncode
        == 0
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_the_batch_and_leaves_no_part_of_it(tmp_path):
    """On a full disk append raises, earlier records stay, nothing of the refused batch is left, and it recovers."""
    folder = tmp_path / "disk"
    with tiny_disk(folder):
        book = Journal(folder)
        book.append(records(100))
        with pytest.raises(JournalError, match=r"cannot append to .*\.open"):
            book.append(records(2_000, 100))
        assert ids(folder) == [str(i) for i in range(100)]
        book.append(records(5, 100))
        assert ids(folder) == [str(i) for i in range(105)]
        book.close()


def test_a_folder_that_cannot_be_made_is_a_journal_error(tmp_path):
    """A file where the journal's folder should be is reported, not raised as something else."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot append"):
        Journal(tmp_path / "file" / "journal").append(records(1))


def test_a_record_that_is_not_json_refuses_the_whole_batch(tmp_path):
    """Nothing of a batch with an impossible record is written."""
    book = Journal(tmp_path)
    with pytest.raises(JournalError, match="not JSON"):
        book.append([*records(1), {"request_id": object()}])
    assert journal.segments(tmp_path) == []


def test_fsync_is_a_setting(tmp_path, monkeypatch):
    """With fsync the batch is on the disk before append returns."""
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    Journal(tmp_path / "a").append(records(1))
    assert not synced
    Journal(tmp_path / "b", fsync=True).append(records(1))
    assert len(synced) == 1
