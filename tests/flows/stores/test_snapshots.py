"""Snapshots beside the home: the bucket has what the home has, and gives it back."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bentos.runtime.bucket import Bucket, BucketError
from flows.errors import StoreError
from flows.stores import snapshots

FRAME = pd.DataFrame({"user_id": [1, 2], "amount": [3.5, 4.0]})


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket on this disk."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setenv("BENTOFLOW_BUCKET", (tmp_path / "bucket").as_uri())
    return tmp_path / "bucket" / "snapshots" / "churn"


def test_a_home_that_has_lost_a_snapshot_gets_it_back(tmp_path: Path, shared: Path) -> None:
    """Table and record are the same bytes in both."""
    made = snapshots.write(tmp_path / "home", "churn", FRAME, meta={})
    assert {p.name: p.read_bytes() for p in shared.iterdir()} == {
        p.name: p.read_bytes() for p in made.path.parent.iterdir()
    }
    assert snapshots.address(tmp_path, "churn", made.id) == f"{shared.as_uri()}/{made.id}.parquet"
    shutil.rmtree(tmp_path / "home")
    assert snapshots.read(tmp_path / "home", "churn", made.id).equals(FRAME)


def test_a_snapshot_that_the_bucket_did_not_take_is_written_there_next_time(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the home all the same; the record comes last, so that half a snapshot is none."""
    real = Bucket.put

    def torn(self: Bucket, name: str, data: bytes) -> None:
        real(self, name, data)
        raise BucketError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", torn)
        with pytest.raises(BucketError):
            snapshots.write(tmp_path / "home", "churn", FRAME, meta={})
    id = next((tmp_path / "home").rglob("*.json")).stem
    assert not (shared / f"{id}.json").exists()
    with pytest.raises(StoreError, match="no complete snapshot"):
        snapshots.read(tmp_path / "elsewhere", "churn", id)
    again = snapshots.write(tmp_path / "home", "churn", FRAME, meta={})
    assert (again.created, (shared / f"{id}.json").exists()) == (False, True)


def test_an_altered_object_is_no_snapshot(tmp_path: Path, shared: Path) -> None:
    """What the bucket gives is checked as what lies in the home is."""
    made = snapshots.write(tmp_path / "home", "churn", FRAME, meta={})
    FRAME.assign(amount=0.0).to_parquet(shared / f"{made.id}.parquet")
    with pytest.raises(StoreError, match="was altered"):
        snapshots.read(tmp_path / "elsewhere", "churn", made.id)
