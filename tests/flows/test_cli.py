"""The `bentoflow` command: what a user can get wrong is one line that says what to do, never a traceback."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli, environment
from flows.check_drift import check_drift
from flows.errors import WindowError
from flows.prepare import prepare


def said(home: Path, *arguments: str, **more: str) -> str:
    """The last line of what the command prints in a process of its own; it must fail, and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=environment.ROOT,
        env={**os.environ, **environment.defaults(home), **more},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_wrong_setting_is_named_without_its_value(home: Path) -> None:
    """Each variable that cannot be so, and why; the value may be a secret."""
    line = said(home, "status", BENTOFLOW_SERVICE_PORT="s3cret", BENTOFLOW_TASK_RUNNER="dsk")
    assert "BENTOFLOW_SERVICE_PORT: Input should be a valid integer" in line
    assert "BENTOFLOW_TASK_RUNNER: Input should be 'threads' or 'dask'" in line
    assert "s3cret" not in line


def test_a_home_that_cannot_be_written_is_named() -> None:
    """A folder in which nobody may make one, root included: the path, and the setting that moves it."""
    line = said(Path("/sys/bentoflow"), "status")
    assert line.startswith("cannot write /sys/bentoflow")
    assert "name another folder in BENTOFLOW_HOME" in line


def test_an_interpreter_starts_with_a_home_that_cannot_be_written() -> None:
    """The set-up's line in the virtual environment runs at every start of Python: it says nothing there."""
    environment_before = dict(os.environ)
    try:
        environment.apply(Path("/sys/bentoflow"))
    finally:
        os.environ.clear()
        os.environ.update(environment_before)


def test_a_full_disk_is_said_in_one_line() -> None:
    """Whether a file or a database did not fit, and whatever it was wrapped in."""
    with pytest.raises(OSError, match="No space left") as full, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert "No space left on device. Free space" in str(cli.unwritable(full.value))
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as filled:
            db.execute("CREATE TABLE t AS WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT i FROM n")
    wrapped = RuntimeError("from MLflow")
    wrapped.__cause__ = filled.value
    assert "the disk is full. Free space" in str(cli.unwritable(wrapped))
    assert cli.unwritable(ValueError("other")) is None


def test_an_unknown_drill_is_refused_with_the_known_ones() -> None:
    """Before anything is started."""
    result = CliRunner().invoke(cli.app, ["train", "--drill", "nonsense"])
    assert result.exit_code == 2
    assert "shuffled_labels" in result.output


def test_a_window_that_ends_before_it_begins_is_refused(released: Path) -> None:
    """No verdict and no report are written of it."""
    end = datetime(1998, 1, 1, tzinfo=UTC)
    with pytest.raises(WindowError, match="no answer lies between 1998-01-02 00:00 and 1998-01-01 00:00 UTC"):
        check_drift("churn", since=end + timedelta(days=1), until=end)
    assert not list((released / "reports").glob("churn/drift-*"))


def test_nothing_is_prepared_as_of_a_moment_to_come(prepared: Path, feed: dict[str, str]) -> None:
    """A mistyped year is refused before the feature tables are touched: what was prepared can still be trained on."""
    from flows.stores import prepared as pointer

    before = pointer.latest(prepared, "churn")
    with pytest.raises(WindowError, match="nothing is known yet as of 2999-01-01"):
        prepare("churn", datetime(2999, 1, 1, tzinfo=UTC), feed)
    assert pointer.latest(prepared, "churn") == before
