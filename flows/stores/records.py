"""Records that a store keeps as one JSON object in a file of its own."""

import json
from pathlib import Path
from typing import Any

from flows.errors import StoreError


def read(path: Path, remedy: str) -> dict[str, Any] | None:
    """The object in a file, None if there is no file; StoreError, with what to do, if it holds anything else."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:  # cut off, or not UTF-8
        raise StoreError(f"{path} is corrupt: {error}; {remedy}") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} is corrupt: it holds no object but {str(found)[:40]!r}; {remedy}")
    return found
