"""The bounds of a body in this process: what is handed on, what is held at once, and what the settings may be."""

import asyncio
from typing import Any

import pytest

from bentos import limits
from bentos.limits import Bounds, Limits
from bentos.protocols import shape_of
from bentos.protocols.exchange import is_json, plain_error

Sent = list[dict[str, Any]]


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    """A piece of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


async def passed(bounded: Limits, *pieces: Any, path: str = "/predict", **fields: str) -> Sent:
    """What a client is sent whose pieces come one by one; a number is a pause in seconds, the end a disconnect."""
    waiting, sent = list(pieces), Sent()

    async def receive() -> dict[str, Any]:
        while waiting and isinstance(waiting[0], float):
            await asyncio.sleep(waiting.pop(0))
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    await bounded({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    return sent


def limited(size: int = 100, pause_s: float = 5.0, total_s: float = 5.0) -> tuple[Limits, list[Any]]:
    """Limits in front of an app that keeps what it is handed and answers 200."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    forms = {"/predict": frozenset({b"application/x-arrow"})}
    return Limits(app, Bounds(size, pause_s, total_s), use_case="x", shape=shape_of, forms=forms), seen


def test_a_body_is_handed_on_whole_and_then_what_comes() -> None:
    """In one message, however many pieces it came in; then the client's leaving."""
    bounded, seen = limited()
    sent = asyncio.run(passed(bounded, part(b"ab"), 0.01, part(b"cd"), part(b"e", more=False)))
    assert seen == [[part(b"abcde", more=False), {"type": "http.disconnect"}]]
    assert sent[0]["status"] == 200
    assert bounded._held == 0


@pytest.mark.parametrize(
    ("pieces", "fields", "status"),
    [
        ([part(b"x" * 101, more=False)], {}, 413),
        ([part(b"x" * 60), part(b"x" * 41, more=False)], {}, 413),
        ([part(b"{}", more=False)], {"content_length": "101"}, 413),
        ([part(b"{"), 0.2, part(b"}", more=False)], {}, 408),
        ([part(b"{"), *[0.04, part(b" ")] * 9, part(b"}", more=False)], {}, 408),
        ([part(b"{"), part(b"}", more=False)], {"content_type": "text/xml"}, 415),
        ([part(b"{"), part(b"}", more=False)], {"content_encoding": "br"}, 415),
        ([part(b"{")], {}, 400),
    ],
)
def test_what_breaks_a_bound_reaches_nothing_and_holds_nothing(
    pieces: list[Any], fields: dict[str, str], status: int
) -> None:
    """Whatever the reason, the app never sees the request, no task is left and no byte stays counted."""
    bounded, seen = limited(pause_s=0.1, total_s=0.15)

    async def main() -> Sent:
        sent = await passed(bounded, *pieces, **fields)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return sent

    sent = asyncio.run(main())
    assert (sent[0]["status"], seen, bounded._held) == (status, [], 0)
    assert not sent[-1].get("more_body")
    assert ((b"connection", b"close") in sent[0]["headers"]) == (status in (408, 413))


def test_bodies_that_are_held_at_once_are_bounded_together() -> None:
    """Many connections cannot hold more than eight bodies of the largest size: 503, and room again when they end."""
    bounded, seen = limited()

    async def main() -> list[Sent]:
        slow = [passed(bounded, part(b"x" * 99), 0.2, part(b"", more=False)) for _ in range(10)]
        return list(await asyncio.gather(*slow))

    statuses = [sent[0]["status"] for sent in asyncio.run(main())]
    assert (statuses.count(200), statuses.count(503), len(seen), bounded._held) == (8, 2, 8, 0)
    assert [s[0]["status"] for s in asyncio.run(main())].count(200) == 8


def test_a_body_that_is_there_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual request costs no call of the event loop's clock."""
    bounded, seen = limited()
    monkeypatch.setattr(asyncio, "timeout", None)
    asyncio.run(passed(bounded, part(b"{}", more=False)))
    assert len(seen) == 1


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf", "1e99"])
@pytest.mark.parametrize("name", [limits.SIZE, limits.PAUSE, limits.TOTAL])
def test_a_setting_that_is_no_bound_is_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A service with a limit that limits nothing does not start."""
    monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=f"{name} is '{text}'"):
        limits.bounds()


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And blank ones are the usual bounds."""
    monkeypatch.setenv(limits.SIZE, " 1000 ")
    monkeypatch.setenv(limits.PAUSE, "0.5")
    monkeypatch.setenv(limits.TOTAL, "")
    assert limits.bounds() == Bounds(1000, 0.5, 60.0)


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=UTF-8", True),
        ('application/json; charset="utf-8"', True),
        ("application/vnd.x+json", True),
        ("application/json; charset=latin-1", False),
        ("text/json", False),
        ("application/jsonx", False),
        ("", False),
    ],
)
def test_json_has_several_names(text: str, json: bool) -> None:
    """Its own, those of RFC 6839, and no other charset."""
    assert is_json(text) is json


def test_an_error_has_its_protocols_form() -> None:
    """By path, behind a prefix too; whatever is not of a protocol has /predict's."""
    assert shape_of("/invocations") is shape_of("/p/invocations", "/p") is not plain_error
    assert shape_of("/p/v2/models/x/infer", "/p") is shape_of("/nothing") is plain_error
