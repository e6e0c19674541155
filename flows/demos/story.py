"""A demo's story: told line by line and kept for its page, and what the demos of all use cases have in common."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.errors import GateError
from flows.steps.pages.page import Event, Kind


@dataclass
class Story:
    """What happened so far: told line by line, kept for the page."""

    say: Callable[[str], None]
    home: Path
    use_case: str
    began: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def tell(self, what: str, text: str, *, when: datetime | None = None, kind: Kind = "info") -> None:
        """One line now, one event on the page."""
        spent = time.monotonic() - self.began
        month = f"{when:%Y-%m-%d}" if when else ""
        self.say(f"[{spent:5.0f} s] {what:<10} {month:<10}  {text}")
        self.events.append(Event(month or f"{spent:.0f} s", what, text, kind))


def drill(story: Story) -> None:
    """A candidate trained on shuffled labels: the gates must refuse it, and no path may release it."""
    from flows.release import release
    from flows.train import train

    planted = train(story.use_case, reason="drill", drill="shuffled_labels")
    try:
        release(story.use_case, planted["version"])
    except GateError as error:
        refused = str(error)
    else:
        raise AssertionError(f"version {planted['version']} was released although its labels were shuffled")
    story.facts["drill"] = {**planted, "refused": refused}
    story.tell(
        "drill",
        f"version {planted['version']}, trained on shuffled labels on purpose: {planted['verdict']} by "
        f"{planted['failed'][0]} and {len(planted['failed']) - 1} other gates; its release was refused",
        kind="good",
    )
