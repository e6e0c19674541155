"""Append-only history of a use case: who was champion when and why, every verdict, every refusal."""

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.errors import StoreError


def path(home: Path, use_case: str) -> Path:
    """The history's file, JSON lines, oldest first."""
    return home / "history" / f"{use_case}.jsonl"


def append(home: Path, use_case: str, action: str, *, at: datetime, **facts: Any) -> dict[str, Any]:
    """One more line, synced to disk; `at` is the use case's clock, `wall` the machine's."""
    line = {"action": action, "at": at.isoformat(), "wall": datetime.now(UTC).isoformat(), **facts}
    file = path(home, use_case)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as out:
        fcntl.flock(out, fcntl.LOCK_EX)  # flows append side by side
        out.seek(0)
        out.truncate(out.read().rfind(b"\n") + 1)  # a torn last line, of a machine that lost power, would run into this
        out.write(json.dumps(line, default=str).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    return line


def read(home: Path, use_case: str) -> list[dict[str, Any]]:
    """All lines; a torn last one (a machine that lost power) is left out, StoreError names any other that is none."""
    file = path(home, use_case)
    if not file.exists():
        return []
    lines = enumerate(file.read_bytes().split(b"\n")[:-1], 1)
    return [_parsed(line, f"{file}, line {number}") for number, line in lines if line]


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
        _ = found["action"], found["at"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{where} is corrupt: {error!r}; restore it, or remove the line if you accept to lose what it says"
        ) from error
    return found
