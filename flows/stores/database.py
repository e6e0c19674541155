"""MLflow's own SQLite database, made whole before it is in its place.

MLflow makes it in dozens of steps that no transaction holds together: a first command that was killed, or that ran out
of disk, would leave a file that MLflow can never finish, and two first commands would make it at the same time.
"""

import os
from collections.abc import Callable
from pathlib import Path

from flows.stores import locks

SQLITE = "sqlite:///"


def ready(address: str, make: Callable[[str], None]) -> None:
    """If the address is of a SQLite file that is not there, `make` one, at another address, and put it there."""
    if not address.startswith(SQLITE) or (file := Path(address.removeprefix(SQLITE))).exists():
        return
    draft = file.with_name(f".{file.name}.new")
    with locks.held(file.parent, "database", wait=True):
        if file.exists():  # another first command was faster
            return
        for left in draft.parent.glob(f"{draft.name}*"):  # by one that was killed
            left.unlink()
        make(f"{SQLITE}{draft}")
        os.replace(draft, file)
