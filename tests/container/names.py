"""The engine's DNS, kept awake: Debian 12's aardvark-dns 1.4 may lose a network's socket when it reads its names anew.

It does so whenever a container starts or ends, and is silent then until the next one does. That is the engine's, not
ours to test: a server that answers nothing is told to read its names once more.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CONFIGURATION = Path("/run/containers/networks/aardvark-dns")  # a file per network, its addresses in the first line
QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06valkey\x00\x00\x01\x00\x01"  # what A record valkey has
PATIENCE_S = 1.0
MISSED = 2  # in a row


@contextmanager
def kept() -> Iterator[None]:
    """For the length of the block."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over,), name="names", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=30)


def _watch(over: threading.Event) -> None:
    missed: dict[str, int] = {}
    while not over.wait(PATIENCE_S):
        for address in addresses():
            missed[address] = 0 if answers(address) else missed.get(address, 0) + 1
            if missed[address] == MISSED:
                print(f"the engine's DNS is silent at {address}: it is told to read its names again", file=sys.stderr)
                with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    os.kill(int((CONFIGURATION / "aardvark.pid").read_text()), signal.SIGHUP)
                missed[address] = 0


def addresses() -> list[str]:
    """Where the server listens."""
    found = []
    for path in CONFIGURATION.glob("*"):
        with suppress(FileNotFoundError, IndexError):
            if path.name != "aardvark.pid":
                found += path.read_text().splitlines()[0].split()[0].split(",")
    return found


def answers(address: str) -> bool:
    """Whether anything comes back, and be it that there is no such name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(PATIENCE_S)
        try:
            asked.sendto(QUESTION, (address, 53))
            return len(asked.recv(512)) > 0
        except OSError:
            return False
