"""The demo, run once per test session in a home of its own, and what its stored evidence is read with."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import environment, processes
from flows.settings import Settings
from flows.stores import history

ROOT = Path(__file__).parents[1]
CUSTOMERS = 700


def env(home: Path, **more: str) -> dict[str, str]:
    """Environment of a process that works in that home."""
    clean = {k: v for k, v in os.environ.items() if k not in {"PREFECT_API_URL", "BENTOFLOW_USE_CASE"}}
    return {**clean, **environment.defaults(home), "PYTHONWARNINGS": "default", **more}


def _execute(command: list[str], environ: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run to the end with output in files: a killed process may leave children that would keep a pipe open."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(
            command, cwd=ROOT, env=environ, stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=seconds
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


def run(
    home: Path, *command: str, seconds: float = 300, check: bool = True, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of the virtual environment in the repository's root, as a user would."""
    binary = Path(sys.executable).parent / command[0]
    done = _execute([str(binary), *command[1:]], env(home, **more), seconds)
    if check and done.returncode:
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done


def shell(home: Path, line: str, *, seconds: float = 600) -> str:
    """Run a line of the README as a user whose virtual environment is active; its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = _execute(["bash", "-euo", "pipefail", "-c", line], env(home, PATH=path), seconds)
    if done.returncode:
        raise AssertionError(f"{line} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def demo_home(folder: Path) -> Iterator[Path]:
    """A home in which the demo has run through the Makefile's command; everything is stopped afterwards."""
    home = folder / "loop"
    try:
        shell(home, f"make demo ARGS='--customers {CUSTOMERS}'", seconds=900)
        yield home
    finally:
        for name in processes.names(home):
            processes.stop(home, name)


def lines(home: Path, action: str | None = None) -> list[dict[str, Any]]:
    """The history's lines, or those of one action."""
    return [line for line in history.read(home, "churn") if action is None or line["action"] == action]


@contextmanager
def inside(home: Path) -> Iterator[Settings]:
    """This process works in that home."""
    before = dict(os.environ)
    os.environ.update(environment.defaults(home))
    try:
        yield Settings()
    finally:
        os.environ.clear()
        os.environ.update(before)
