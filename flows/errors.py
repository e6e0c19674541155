"""The error tree: each message says what failed, on which value, and what to do."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class BentoflowError(Exception):
    """Anything that this stack refuses or cannot do."""


class UseCaseError(BentoflowError):
    """No use case of that name is declared."""


class SourceError(BentoflowError):
    """A source could not be read; the message never holds credentials."""


class ContractError(BentoflowError):
    """A table breaks its contract as a whole; `bad` holds the rows for quarantine, `report` the counts."""

    def __init__(self, message: str, bad: "pd.DataFrame | None" = None, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.bad = bad
        self.report = report if report is not None else {}


class StoreError(BentoflowError):
    """A stored artefact is missing, altered or cannot be written."""


class ServerError(BentoflowError):
    """A server that a setting names does not answer, or not as it should; the message never holds credentials."""


class WindowError(BentoflowError):
    """A time is none that can be asked about: a window that ends before it begins, a moment that is yet to come."""


class GateError(BentoflowError):
    """A candidate was refused, or a gate could not be evaluated."""


class AlertError(BentoflowError):
    """An alert could not be sent; the message never holds an address or a secret."""


class ReleaseError(BentoflowError):
    """A release, rollout or rollback could not be carried out whole."""


class ImageError(ReleaseError):
    """A container image could not be built, tested, pushed, pulled or verified; the message never holds credentials."""


class StackError(ReleaseError):
    """A composed stack is not there, is not this use case's, or does not do what it was asked."""


class ClusterError(ReleaseError):
    """A cluster could not be reached, refused what was applied, or does not run it."""
