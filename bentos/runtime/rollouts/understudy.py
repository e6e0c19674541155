"""The process of a shadow, which `shadow` starts as `python -m` this module with use case, home, folder and arm.

Standard input is a socket on which every message is a batch of answered rows. Each is scored and journalled under its
request id with the shadow's arm, and what became of it is told on the same socket.
"""

import os
import socket
import sys
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from bentos.runtime.features.joined import open_reader
from bentos.runtime.journal import Journal, segment_age
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.release import load_release

MESSAGE = 1 << 20
LOWEST = 19


class Understudy:
    """One release that scores and journals what it is sent, and keeps count."""

    def __init__(self, decider: Decider, journal: Journal) -> None:
        self._decider, self._journal = decider, journal
        self.counts: Counter[str] = Counter()

    def score(self, message: dict[str, Any]) -> None:
        """Score and journal one message's rows; a batch that raises fails as a whole, and the next goes on."""
        rows, ids = message["rows"], message["ids"]
        try:
            now = datetime.fromisoformat(message["now"])
            if moment := self._decider.served.manifest.time:
                rows = [row | {moment: _time(row.get(moment))} for row in rows]
            decided = self._decider.decide(rows, [False] * len(rows), now, ids=ids)
            self._journal.append([decided.record()])
        except Exception as error:
            print(f"shadow {self._decider.arm}: {type(error).__name__}: {error}", file=sys.stderr)
            self.counts["failed"] += len(rows)
            return
        self.counts["scored"] += len(rows) - len(decided.errors)
        self.counts["failed"] += len(decided.errors)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def serve(channel: socket.socket, understudy: Understudy) -> None:
    """Score what comes until the service closes its end; counts that it is too busy to hear wait for the next turn."""
    while message := channel.recv(MESSAGE):
        understudy.score(orjson.loads(message))
        tell(channel, understudy)


def tell(channel: socket.socket, understudy: Understudy) -> None:
    """Say how many rows were scored and failed since the last time."""
    with suppress(BlockingIOError):
        channel.send(orjson.dumps(dict(understudy.counts)), socket.MSG_DONTWAIT)
        understudy.counts.clear()


def main(use_case: str, home: Path, folder: Path, arm: str) -> int:
    """Load a release and score until the channel ends; 1 if the release may not or cannot be loaded."""
    os.nice(LOWEST)
    channel = socket.socket(fileno=os.dup(0))
    journal = Journal(home / "journal" / use_case, max_age_s=segment_age())
    try:
        release = load_release(folder, use_case, lambda manifest: open_reader(home, manifest))
    except Exception as error:
        channel.send(orjson.dumps({"state": f"{type(error).__name__}: {error}"}))
        return 1
    with suppress(AttributeError, OSError):  # Linux: from here on it runs only where nothing else would
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    channel.send(orjson.dumps({"state": "scoring", "version": release.model_version}))
    understudy = Understudy(Decider(arm, release), journal)
    try:
        serve(channel, understudy)
        tell(channel, understudy)
    finally:
        journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
