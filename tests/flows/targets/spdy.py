"""The server's side of what `kubectl port-forward` speaks over an upgraded connection: SPDY/3.1 frames.

Kubernetes' client opens two streams for each connection that it forwards, first one for errors, then one for data, so
the headers of a stream need not be read. (SPDY protocol, draft 3.1, section 2.2: framing.)
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

SYN_STREAM, SYN_REPLY, PING = 1, 2, 6
CONTROL, FIN = 0x80030000, 0x01
NO_HEADERS = b"\x00\x04\x00\xfb\xff" + bytes(4) + b"\x00\x00\x00\xff\xff"  # deflate: stored, a count of 0; a flush


def frames(stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """First word, flags and body of each frame until the connection ends."""
    with suppress(ConnectionResetError):
        while len(head := stream.read(8)) == 8:
            word, rest = struct.unpack(">II", head)
            yield word, rest >> 24, stream.read(rest & 0xFFFFFF)


def serve(stream: BinaryIO, write: Callable[[bytes], object], port: int) -> None:
    """Carry every forwarded connection to a port on the loopback interface, until the client goes."""
    turn, known = threading.Lock(), b""
    ends: dict[int, socket.socket] = {}
    carriers: list[threading.Thread] = []

    def send(word: int, flags: int, body: bytes) -> None:
        with turn, suppress(OSError):
            write(struct.pack(">II", word, flags << 24 | len(body)) + body)

    def bring(identity: int, end: socket.socket) -> None:
        with suppress(OSError):
            while data := end.recv(65536):
                send(identity, 0, data)
        send(identity, FIN, b"")

    for word, flags, body in frames(stream):
        if not word & 0x80000000:
            if (end := ends.get(word)) is not None:
                with suppress(OSError):
                    end.sendall(body)
                    if flags & FIN:
                        end.shutdown(socket.SHUT_WR)
        elif word == CONTROL | SYN_STREAM:
            (identity,) = struct.unpack(">I", body[:4])
            opening, known = ("" if known else body[10:16]), known or body[10:16]  # zlib's header names the dictionary
            send(CONTROL | SYN_REPLY, 0, struct.pack(">I", identity) + (opening or b"") + NO_HEADERS)
            if identity % 4 == 3:  # 1, 5, 9, …: errors; 3, 7, 11, …: data
                ends[identity] = socket.create_connection(("127.0.0.1", port), timeout=20)
                carriers.append(threading.Thread(target=bring, args=(identity, ends[identity]), daemon=True))
                carriers[-1].start()
        elif word == CONTROL | PING:
            send(word, 0, body)
    for end in ends.values():
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for carrier in carriers:  # whoever called closes what they write to
        carrier.join(timeout=20)
    for end in ends.values():
        end.close()
