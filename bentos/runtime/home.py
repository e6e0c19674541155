"""The home folder: everything that a running stack keeps on disk."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """`$BENTOFLOW_HOME`, else `.bentoflow` in the project's root."""
    named = os.environ.get("BENTOFLOW_HOME", "").strip()
    return Path(named).expanduser().resolve() if named else ROOT / ".bentoflow"


def replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a start after a crash, finds it old or new and whole."""
    _put(path, content, os.replace)


def create(path: Path, content: bytes) -> None:
    """The same of a file that is not there yet, for its owner alone; FileExistsError if somebody was faster."""
    _put(path, content, _linked)


def _linked(name: str, path: Path) -> None:
    os.link(name, path)
    os.unlink(name)


def _put(path: Path, content: bytes, put: Callable[[str, Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
