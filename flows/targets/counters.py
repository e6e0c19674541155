"""What services count of themselves: their /metrics, read into the figures by which releases are compared."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import httpx

from flows.steps.rollouts.canary import Figures

RELEASE = {
    "bentoflow_predictions_total": "answered",
    "bentoflow_prediction_errors_total": "failed",
    "bentoflow_request_seconds_sum": "sum",
    "bentoflow_request_seconds_count": "count",
    "bentoflow_request_seconds_bucket": "bucket",
}
Counts = Counter[tuple[str, str]]  # by what was counted and, of a histogram, the bound


def of_release(url: str) -> Figures:
    """What a service counted since it started: rows answered and failed with a 5xx, and the times of its requests."""
    found: Counts = Counter()
    for name, labels, value in _samples(url, RELEASE):
        if labels.get("status", "5").startswith("5"):
            found[RELEASE[name], labels.get("le", "")] += value
    return _figures(found)


def of_arms(url: str) -> dict[str, Figures]:
    """What a service's workers counted of each arm since they started, while there was a canary."""
    found: dict[str, Counts] = defaultdict(Counter)
    for name, labels, value in _samples(url, ["bentoflow_arm_"]):
        what = labels.get("outcome") or name.rpartition("_")[2]
        found[labels["arm"]][what, labels.get("le", "")] += value
    return {arm: _figures(counts) for arm, counts in found.items()}


def _samples(url: str, starts: Iterable[str]) -> Iterator[tuple[str, dict[str, str], int]]:
    """Name, labels and value of what is exposed under names with such a start."""
    from prometheus_client.parser import text_string_to_metric_families

    text = httpx.get(f"{url}/metrics", timeout=10.0).raise_for_status().text
    lines = [line for line in text.splitlines() if line.startswith(tuple(starts))]
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _figures(counts: Counts) -> Figures:
    return Figures(
        answered=int(counts["answered", ""]),
        failed=int(counts["failed", ""]),
        seconds=counts["sum", ""],
        parts=int(counts["count", ""]),
        within=tuple(sorted((float(bound), int(n)) for (what, bound), n in counts.items() if what == "bucket")),
    )
