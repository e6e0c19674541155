"""Locks: one holder per name, however it ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.stores import locks

HOLDER = """
import sys, time
from pathlib import Path
from flows.stores import locks
with locks.held(Path(sys.argv[1]), "train-churn") as alone:
    print(alone, flush=True)
    time.sleep(300)
"""


def test_one_holder_per_name(tmp_path: Path) -> None:
    """The second one is told that it does not hold it; another name is free; afterwards it is free again."""
    with locks.held(tmp_path, "train-churn") as first:
        with locks.held(tmp_path, "train-churn") as second, locks.held(tmp_path, "release-churn") as other:
            assert (first, second, other) == (True, False, True)
        with locks.held(tmp_path, "train-churn") as still:
            assert not still
    with locks.held(tmp_path, "train-churn") as again:
        assert again


def test_an_error_in_the_block_frees_it(tmp_path: Path) -> None:
    """A training that raises leaves no lock behind."""

    def fails() -> None:
        with locks.held(tmp_path, "train-churn"):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    with locks.held(tmp_path, "train-churn") as again:
        assert again


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    """The kernel takes the lock from a process that is killed; nobody has to remove a stale file."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        with locks.held(tmp_path, "train-churn") as while_held:
            assert not while_held
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with locks.held(tmp_path, "train-churn") as afterwards:
        assert afterwards
