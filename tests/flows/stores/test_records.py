"""Records on disk that were cut off or written by hand: an error that names the file and what to do."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.errors import StoreError
from flows.stores import backtests, prepared, records, verdicts

NOW = datetime(1998, 1, 1, tzinfo=UTC)


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_record_is_read_and_none_is_none(tmp_path: Path) -> None:
    """The object of the file, None where there is no file."""
    assert records.read(tmp_path / "none.json", "do this") is None
    assert records.read(written(tmp_path / "a.json", b'{"a": 1}'), "do this") == {"a": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff\x00", b"\0" * 500])
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes) -> None:
    """Empty, cut off, another kind, another encoding or zeros: the file, and what to do."""
    path = written(tmp_path / "a.json", content)
    with pytest.raises(StoreError, match=f"^{path} is corrupt: .*; do this$"):
        records.read(path, "do this")


@pytest.mark.parametrize("content", [b'{"rows": 2_0', b'{"rows": 20}'])
def test_a_corrupt_verdict_is_named(tmp_path: Path, content: bytes) -> None:
    """A check that looks at earlier verdicts says which file to remove."""
    path = written(tmp_path / "reports" / "churn" / "drift-1997-12-01_1998-01-01-v1.json", content)
    with pytest.raises(StoreError, match=f"{path} is .*a check of the same window writes it again"):
        verdicts.until(tmp_path, "churn", NOW)


def test_corrupt_measurements_are_named(tmp_path: Path) -> None:
    """What labels measured last is measured again by feedback."""
    written(tmp_path / "feedback" / "churn.json", b"{")
    with pytest.raises(StoreError, match="run `bentoflow feedback` again"):
        verdicts.feedback(tmp_path, "churn")


def test_a_corrupt_pointer_to_the_newest_prepare_is_named(tmp_path: Path) -> None:
    """Trainings and the next prepare say that it may be removed."""
    written(tmp_path / "snapshots" / "churn" / "latest.json", b'{"snapshot"')
    for step in (prepared.latest, prepared.source_rows):
        with pytest.raises(StoreError, match=r"latest\.json is corrupt.*run `bentoflow prepare` again"):
            step(tmp_path, "churn")


def test_a_corrupt_backtest_is_named(tmp_path: Path) -> None:
    """The newest result that cannot be read says so."""
    written(tmp_path / "backtests" / "churn" / backtests.LATEST, b"{")
    with pytest.raises(StoreError, match="run `bentoflow backtest` again"):
        backtests.latest(tmp_path, "churn")
