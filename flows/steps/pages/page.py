"""Self-contained HTML pages: a small vocabulary of blocks, one template.

A page loads nothing: styles are inline, images are data URIs, and its own content policy forbids the rest.
"""

import base64
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

Kind = Literal["good", "warn", "bad", "info"]
NUMBER = re.compile(r"[<>≤≥~≈]?\s*[+−-]?[\d][\d,.\s]*\s*(%|pp|sd|s|ms|µs|[kMG]?B)?|[–-]|")
ANCHOR = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Text:
    """Paragraphs, apart by blank lines."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command or a listing, shown as it is."""

    text: str


@dataclass(frozen=True)
class Badge:
    """A verdict in a word or two, with a sentence; inside a table cell, a small coloured label."""

    label: str
    kind: Kind
    text: str = ""


Cell = str | int | float | Badge


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    items: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Table:
    """Rows under headers; a column of nothing but numbers is aligned to the right."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A PNG image; `alt` says what it shows to those who do not see it."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Figures side by side where there is room, each with its caption."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Event:
    """One step of a timeline."""

    time: str
    title: str
    text: str = ""
    kind: Kind = "info"


@dataclass(frozen=True)
class Timeline:
    """What happened, in order."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class Links:
    """Labels with their addresses: web, mail, relative or `#anchor`."""

    items: tuple[tuple[str, str], ...]


Block = Text | Code | Badge | Facts | Table | Figure | Gallery | Timeline | Links


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents leads to."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page; `lead` stands above the table of contents."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    lead: tuple[Block, ...] = ()
    footer: str = ""


def render(page: Page) -> str:
    """The page as one HTML document; ValueError for an anchor, image or link that would not work or not be safe."""
    anchors = [section.anchor for section in page.sections]
    for anchor in anchors:
        if not ANCHOR.fullmatch(anchor) or anchor in ("top", "contents") or anchors.count(anchor) > 1:
            raise ValueError(
                f"anchor {anchor!r} is malformed, reserved or used twice; use one word per section, a letter first"
            )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(cell=_cell, size=_size, href=_href, base64=lambda png: base64.b64encode(png).decode())
    environment.globals.update(kind_of=lambda value: type(value).__name__, numeric=_numeric)
    return environment.get_template("page.html").render(page=page)


def _cell(value: Cell) -> str:
    if isinstance(value, Badge):
        return value.label
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _numeric(rows: tuple[tuple[Cell, ...], ...], column: int) -> bool:
    cells = [row[column] for row in rows]
    return all(not isinstance(cell, Badge) and NUMBER.fullmatch(_cell(cell)) for cell in cells)


def _size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 24:
        raise ValueError(f"figure of {len(png)} bytes is not a PNG; save it with format='png'")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _href(address: str) -> str:
    if urlsplit(address.strip()).scheme.lower() not in ("", "http", "https", "mailto"):
        raise ValueError(f"link {address!r} is neither web, mail, relative nor an anchor")
    return address
