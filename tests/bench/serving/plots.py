"""A picture of what the servers' latencies are: percentiles of single rows, and the curves at fixed arrival rates."""

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.serving.arrivals import Arrivals
from tests.bench.serving.load import Load

QUANTILES = np.concatenate([np.linspace(0, 99, 100), np.linspace(99.1, 99.9, 9)])


def write(path: Path, latencies: dict[str, list[Load]], arrivals: dict[tuple[str, int], list[Arrivals]]) -> None:
    """Draw what was measured; nothing if neither was."""
    if not latencies and not arrivals:
        return
    from matplotlib.figure import Figure

    rates = sorted({rate for _, rate in arrivals})
    panels = [None] * bool(latencies) + rates
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, rate in zip(axes, panels, strict=True):
        if rate is None:
            _percentiles(axis, latencies)
        else:
            _curves(axis, rate, {name: runs for (name, at), runs in arrivals.items() if at == rate})
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"latencies are drawn in {path}", flush=True)


def _percentiles(axis: Any, latencies: dict[str, list[Load]]) -> None:
    """p50, p99 and p99.9 of each case as a line from left to right, in ms."""
    for at, loads in enumerate(reversed(latencies.values())):
        values = [median(getattr(load, field) for load in loads) for field in ("p50_ms", "p99_ms", "p999_ms")]
        axis.plot(values, [at] * 3, color="0.6", linewidth=1)
        for value, mark, label in zip(values, "o|x", ("p50", "p99", "p99.9"), strict=True):
            axis.plot(value, at, mark, color="C0", markersize=8, label=label if at == 0 else None)
    axis.set_yticks(range(len(latencies)), list(reversed(latencies)))
    axis.set(xscale="log", xlabel="ms", title="single rows, 32 connections unless said")
    axis.legend(frameon=False)


def _curves(axis: Any, rate: int, runs: dict[str, list[Arrivals]]) -> None:
    """Latency from due by percentile, all rounds together."""
    for name, rounds in runs.items():
        values = np.percentile(np.concatenate([run.latency_s for run in rounds]) * 1e3, QUANTILES)
        share = median(run.share for run in rounds)
        axis.plot(1 / (1 - QUANTILES / 100), values, label=f"{name}, {share:.0%} answered")
    axis.set(xscale="log", yscale="log", ylabel="ms from due", title=f"{rate:,} requests/s")
    axis.set_xticks([1, 2, 10, 100, 1000], ["0", "50", "90", "99", "99.9"])
    axis.set_xlabel("percentile")
    axis.legend(frameon=False)
