"""Admission: which version may be released; one whose gates did not say PROMOTE never gets further."""

import json

from flows.errors import GateError, ReleaseError
from flows.stores import registry


def promoted(use_case: str, number: str | None) -> registry.Version:
    """The version of that number, else the challenger; GateError unless its gates said PROMOTE, and not of a drill."""
    version = registry.get(use_case, number) if number else registry.by_alias(use_case, "challenger")
    if version is None:
        raise ReleaseError(f"{use_case} has no challenger: run `bentoflow train`, or name a version to release")
    if version.verdict != "PROMOTE":
        reasons = " ".join(json.loads(version.tags.get("reasons", "[]")))
        raise GateError(
            f"version {version.number} of {use_case} cannot be released: its verdict is "
            f"{version.verdict or 'missing'}. {reasons}".strip()
        )
    if version.tags.get("drill"):
        raise GateError(
            f"version {version.number} of {use_case} was trained with a planted fault (a drill): never released"
        )
    return version


def releasable(use_case: str, number: str | None) -> registry.Version:
    """The version to release; GateError unless its gates said PROMOTE, against the champion that is still in charge."""
    version = promoted(use_case, number)
    champion = registry.by_alias(use_case, "champion")
    against = version.tags.get("judged_against", "")
    if champion is not None and champion.number not in {against, version.number}:
        raise GateError(
            f"version {version.number} was judged against {against or 'no champion'}, but {champion.number} "
            f"is in charge now: train again, so that they are compared on the same rows"
        )
    return version
