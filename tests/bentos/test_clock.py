"""The domain's clock."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bentos.runtime import clock


def test_without_a_file_the_clock_is_wall_time(tmp_path):
    """A use case without a clock file lives in wall time, UTC."""
    assert abs(clock.now(tmp_path, "churn") - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_written_time_is_read_back_in_utc_and_a_new_one_replaces_it(tmp_path):
    """The clock file decides, whatever zone it was written in, and a change is seen at once."""
    clock.write(tmp_path, "churn", datetime(1998, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock.now(tmp_path, "churn") == datetime(1998, 6, 1, tzinfo=UTC)
    clock.write(tmp_path, "churn", datetime(1998, 7, 1, tzinfo=UTC))
    assert clock.now(tmp_path, "churn") == datetime(1998, 7, 1, tzinfo=UTC)
    assert clock.now(tmp_path, "churn").tzinfo is UTC
    assert [p.name for p in (tmp_path / "clock").iterdir()] == ["churn.json"]


def test_a_broken_clock_file_is_named(tmp_path):
    """A clock that cannot be read is an error with its path, never wall time."""
    clock.clock_path(tmp_path, "churn").parent.mkdir()
    clock.clock_path(tmp_path, "churn").write_text("{")
    with pytest.raises(clock.ClockError, match=r"churn\.json"):
        clock.now(tmp_path, "churn")


def test_a_time_without_zone_is_refused(tmp_path):
    """A naive time is ambiguous and is not written."""
    with pytest.raises(clock.ClockError, match="no time zone"):
        clock.write(tmp_path, "churn", datetime(1998, 6, 1))
