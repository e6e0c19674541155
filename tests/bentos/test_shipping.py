"""Shipping a journal: what is in the bucket was read back, what is not is still here, whoever was killed when."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from bentos.runtime import bucket, journal, shipping
from bentos.runtime.bucket import Bucket, BucketError
from bentos.runtime.journal import Journal

from .test_journal import ids, records

WRITER = """
import sys, time
from pathlib import Path
from bentos.runtime.journal import Journal
from tests.bentos.test_journal import records
Journal(Path(sys.argv[1])).append(records(3))
print("written", flush=True)
time.sleep(60)
"""


@pytest.fixture
def kept(tmp_path: Path) -> Bucket:
    """A bucket on this disk."""
    (tmp_path / "bucket").mkdir()
    return Bucket((tmp_path / "bucket").as_uri())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal with two finished segments."""
    for start in (0, 5):
        book = Journal(tmp_path / "journal")
        book.append(records(5, start))
        book.close()
    return tmp_path / "journal"


def unshipped(use_case: str) -> float:
    """What the service's metric says of the oldest segment that is not shipped."""
    found = REGISTRY.get_sample_value("bentoflow_journal_unshipped_seconds", {"use_case": use_case})
    return -1.0 if found is None else found


def test_finished_segments_are_shipped_once_and_stay_readable(folder: Path, kept: Bucket) -> None:
    """They are moved aside once the bucket has them, and the journal reads on as before."""
    assert len(shipping.ship(folder, kept, "churn")) == 2
    assert shipping.ship(folder, kept, "churn") == []
    assert not list(folder.glob("*.jsonl"))
    assert ids(folder) == [str(i) for i in range(10)]


def test_another_home_fetches_what_it_has_not(folder: Path, kept: Bucket, tmp_path: Path) -> None:
    """Every answer once, also where some segments are here already."""
    shipping.ship(folder, kept, "churn")
    assert len(shipping.fetch(tmp_path / "other", kept, "churn")) == 2
    assert shipping.fetch(tmp_path / "other", kept, "churn") == []
    assert shipping.fetch(folder, kept, "churn") == []
    assert ids(tmp_path / "other") == ids(folder)


def test_what_is_open_stays_here(folder: Path, kept: Bucket) -> None:
    """A segment that a living process writes to is neither shipped nor taken from it."""
    book = Journal(folder)
    book.append(records(1, 10))
    assert len(shipping.ship(folder, kept, "churn")) == 2
    book.append(records(1, 11))
    assert ids(folder) == [str(i) for i in range(12)]
    book.close()
    assert len(shipping.ship(folder, kept, "churn")) == 1


def test_what_a_killed_process_left_open_is_shipped(folder: Path, kept: Bucket) -> None:
    """Its lock is gone with it, so somebody else finishes its segment; not a moment before."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        assert len(shipping.ship(folder, kept, "churn")) == 2
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert len(shipping.ship(folder, kept, "churn")) == 1
    assert not list(folder.glob(f"*{journal.OPEN}"))


def test_a_writer_whose_new_segment_was_taken_starts_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between creating and locking a segment a process may look dead: nothing is written to a file that is gone."""
    real, taken = os.open, []

    def slow(path: Path, *args: int) -> int:
        fd = real(path, *args)
        if str(path).endswith(journal.OPEN) and not taken:
            taken.append(path)
            journal.adopt(tmp_path)
        return fd

    monkeypatch.setattr(os, "open", slow)
    Journal(tmp_path).append(records(3))
    assert len(taken) == 1
    assert ids(tmp_path) == ["0", "1", "2"]


def test_a_kill_between_upload_and_move_ships_the_same_again(folder: Path, kept: Bucket) -> None:
    """The name holds the hash of the bytes, so the second upload is the same object."""
    shipping.ship(folder, kept, "churn")
    for path in (folder / journal.SHIPPED).iterdir():
        path.rename(folder / path.name)
    before = kept.names("journal/churn")
    assert len(shipping.ship(folder, kept, "churn")) == 2
    assert kept.names("journal/churn") == before


def test_a_bucket_that_is_away_costs_nothing_but_time(folder: Path, kept: Bucket, tmp_path: Path) -> None:
    """The segments wait, the service writes on, and the thread ships all of it once the bucket is there."""
    place = tmp_path / "bucket" / "journal"
    place.write_text("in the way: no folder can be made here")
    book = Journal(folder, max_age_s=0.05)
    book.append(records(2, 10))
    shipper = shipping.Shipper(book, kept, "churn")
    shipper.start()
    with pytest.raises(BucketError, match="did not write journal/churn/"):
        shipping.ship(folder, kept, "churn", wait=True)
    assert ids(folder) == [str(i) for i in range(12)]
    deadline = time.monotonic() + 20
    while unshipped("churn") <= 0:  # until its first attempt has failed
        assert time.monotonic() < deadline
        time.sleep(0.05)
    place.unlink()
    while len(kept.names("journal/churn")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while unshipped("churn") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    book.append(records(1, 12))
    book.close()
    shipper.stop()
    assert len(kept.names("journal/churn")) == 4


def test_an_altered_object_is_refused(folder: Path, kept: Bucket, tmp_path: Path) -> None:
    """Nobody reads answers from bytes that are not those that were shipped."""
    shipping.ship(folder, kept, "churn")
    victim = next((tmp_path / "bucket" / "journal" / "churn").iterdir())
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(BucketError, match="was altered or is cut off"):
        shipping.fetch(tmp_path / "other", kept, "churn")


def test_an_upload_that_is_not_what_was_written_is_no_upload(
    folder: Path, kept: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local segment is only moved once its bytes were read back."""
    real = Bucket.get
    monkeypatch.setattr(Bucket, "get", lambda self, name: real(self, name)[:-1])
    with pytest.raises(BucketError, match="does not hold what was just written"):
        shipping.ship(folder, kept, "churn")
    assert len(list(folder.glob("*.jsonl"))) == 2


def test_no_bucket_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the setting nothing is shipped; a wrong one says which setting it is."""
    monkeypatch.delenv("BENTOFLOW_BUCKET", raising=False)
    assert bucket.opened() is None
    assert shipping.shipper(Journal(tmp_path), "churn") is None
    monkeypatch.setenv("BENTOFLOW_BUCKET", "ftp://somewhere")
    with pytest.raises(BucketError, match="BENTOFLOW_BUCKET"):
        bucket.opened()
