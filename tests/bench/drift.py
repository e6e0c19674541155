"""Drift: false alarms, detection, kinds, estimated quality, and the cost of a check of a million rows beside Evidently.

Rates are counted over seeded windows. `BENCH_SEEDS` and `BENCH_DRIFT_ROWS` make a quick run smaller; their figures are
then those of fewer seeds or rows, and say so. Both sides of the speed read the same table from memory, one after the
other on one core; Evidently runs in an environment of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from bentos.runtime.home import home as project_home
from bentos.runtime.monitoring import calibration, drift, sketches
from flows.steps.monitoring import windows
from flows.stores import profiles
from tests.bench.figures import Figure, plain, ratio
from tests.bench.serving.peers import own_venv
from tests.flows.steps import quality_windows, scenarios, simulation

SEEDS = int(os.environ.get("BENCH_SEEDS", str(simulation.SEEDS)))
ROWS = int(os.environ.get("BENCH_DRIFT_ROWS", "1000000"))
ROUNDS, PARTS = 3, 10
EVIDENTLY = ["evidently==0.7.23", "pandas<3", "pyarrow"]  # 0.7.23 imports what pandas 3 took away
PRESET = """
import sys, time, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
began = time.perf_counter()
Report([DataDriftPreset()]).run(current, reference).dict()
print("seconds", time.perf_counter() - began)
"""


def run() -> list[Figure]:
    """Every figure of drift; the baselines of the false alarms and the confusion of kinds are printed."""
    return [*_alarms(), _detections(), _kinds(), *_estimates(), *_cost()]


def _alarms() -> list[Figure]:
    """Share of undrifted windows that trigger, over all sizes; whylogs' and plain KS beside it on the same windows."""
    ours, whylogs, plain_ks = {}, {}, {}
    for rows in simulation.SIZES:
        ours[rows] = statistics.mean(simulation.alarms(range(SEEDS), rows))
        few = range(min(SEEDS, 2_000_000 // rows))  # the baselines sort and sketch raw rows: fewer of the largest
        others = [_baselines(frame, window) for _, frame, window in simulation.pairs(few, rows)]
        whylogs[rows], plain_ks[rows] = (statistics.mean(found) for found in zip(*others, strict=True))
        print(
            f"no drift, 20 columns, {rows:>6,} rows, {SEEDS} seeds: {ours[rows]:.1%} of windows trigger; "
            f"whylogs' default KS {whylogs[rows]:.1%}, KS with Bonferroni {plain_ks[rows]:.1%} ({len(few)} seeds)",
            flush=True,
        )
    found = list(ours.values())
    return [
        Figure(
            "drift.false_alarm_rate",
            statistics.mean(found),
            "share",
            statistics.mean(whylogs.values()),
            (min(found), max(found)),
        )
    ]


def _baselines(frame: pd.DataFrame, window: pd.DataFrame) -> tuple[bool, bool]:
    """Whether whylogs' default KS, and whether scipy's at 5 % with Bonferroni's correction, flag any number column."""
    numbers = frame.select_dtypes("number").columns
    sides = [profiles.profile(side[numbers]) for side in (window, frame)]
    p = [stats.ks_2samp(frame[c].dropna(), window[c].dropna(), method="asymp").pvalue for c in numbers]
    return _whylogs(*sides), bool(min(p) < 0.05 / len(numbers))


def _whylogs(window: bytes, reference: bytes) -> bool:
    """Whether whylogs' own algorithm calls a column DRIFT; its notebook half, which needs IPython, is left out."""
    if "whylogs.viz" not in sys.modules:
        found = find_spec("whylogs")
        assert found is not None
        assert found.submodule_search_locations
        package = types.ModuleType("whylogs.viz")
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "viz")]
        sys.modules["whylogs.viz"] = package
    from whylogs.core.view import DatasetProfileView
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    views = [DatasetProfileView.deserialize(side) for side in (window, reference)]
    scores = calculate_drift_scores(target_view=views[0], reference_view=views[1], with_thresholds=True)
    return any(score is not None and score["drift_category"] == "DRIFT" for score in scores.values())


def _detections() -> Figure:
    found = simulation.detections(range(SEEDS))
    by = pd.DataFrame(found, columns=["column", "caught"]).groupby("column")["caught"].mean()
    share = statistics.mean(caught for _, caught in found)
    print(f"half a deviation or PSI 0.2 in one column, within two windows of 5,000 rows: {share:.1%} of {SEEDS} seeds")
    return Figure("drift.detection_rate", share, "share", None, (float(by.min()), float(by.max())))


def _kinds() -> Figure:
    table = scenarios.confusion(range(max(1, SEEDS // 20)))
    right = pd.Series({name: float(row.get(kind, 0)) / row.sum() for (name, kind), row in table.iterrows()})
    print(f"\nconfusion of kinds, seeds per scenario {int(table.iloc[0].sum())}:\n{table.to_string()}\n")
    return Figure("drift.kind_accuracy", float(right.mean()), "share", None, (float(right.min()), float(right.max())))


def _estimates() -> list[Figure]:
    """Share of windows without concept drift whose measured quality is within the estimate's stated interval of 95 %.

    The spread is that of the worlds; the width is beside that of an interval which knows how far the errors spread.
    """
    worlds = quality_windows.coverage(range(max(1, SEEDS // 4)))
    by_world = worlds.groupby("world")[["inside", "excess"]].mean()
    by_size = worlds.groupby(["rows", "metric"])[["inside", "width", "excess"]].mean()
    print(f"\nestimated quality, {int(worlds['windows'].sum())} figures of windows:\n{by_size.round(3).to_string()}")
    print(f"\n{by_world.round(3).to_string()}\n", flush=True)
    found = {name: (float(by_world[name].min()), float(by_world[name].max())) for name in by_world}
    return [
        Figure("drift.estimate_coverage", float(worlds["inside"].mean()), "share", 0.95, found["inside"]),
        Figure("drift.estimate_width", float(worlds["excess"].mean()), "x", 1.0, found["excess"]),
    ]


def million(seed: int, rows: int, shift: float = 0.0) -> pd.DataFrame:
    """Ten numeric and three categorical columns; `shift` moves three of the numeric ones, in deviations."""
    rng = np.random.default_rng(seed)
    numbers = {f"n{i}": rng.normal(shift * (i < 3), 1, rows) for i in range(6)}
    numbers |= {f"n{i}": rng.lognormal(3, 1, rows) for i in range(6, 9)} | {"n9": rng.poisson(3, rows).astype(float)}
    words = {f"c{i}": np.array([f"k{j}" for j in range(k)])[rng.integers(0, k, rows)] for i, k in enumerate((3, 8, 40))}
    return pd.DataFrame({**numbers, **words}).astype(dict.fromkeys(words, object))


def _cost() -> list[Figure]:
    """Seconds of a whole check (profile in parts, merge, compare), and the bytes that it keeps."""
    then, now = million(0, ROWS), million(1, ROWS, 0.5)
    reference = sketches.reference(then)
    known = calibration.calibrate(reference, simulation.RULES, sizes=(ROWS,))
    seconds, kept = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        cut = [now.iloc[a[0] : a[-1] + 1] for a in np.array_split(np.arange(len(now)), PARTS)]
        parts = [(windows.count(part, reference), profiles.profile(part)) for part in cut]
        window, profile = windows.merge([w for w, _ in parts]), profiles.merge([p for _, p in parts])
        verdict = drift.compare(reference, window.sketches, simulation.RULES, known)
        seconds.append(time.perf_counter() - began)
        kept = len(windows.to_json(window)) + len(profile)
    moved = [column.name for column in verdict.columns if column.drifted]
    print(f"{ROWS:,} rows of 13 columns: {statistics.median(seconds):.2f} s, moved: {', '.join(moved)}", flush=True)
    state = plain("drift.state_bytes", [float(kept)], "B")
    check = plain("drift.check_seconds", seconds, "s")
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("then.parquet", "now.parquet")]
        for frame, path in zip((then, now), paths, strict=True):
            frame.to_parquet(path)
        theirs = _evidently(paths)
    return [state, check, *([ratio("drift.speed_over_evidently", theirs * ROUNDS, seconds)] if theirs else [])]


def _evidently(paths: list[str]) -> list[float]:
    """Seconds of Evidently's data drift preset on two parquet tables, once; [] with a message if it cannot run."""
    try:
        python = own_venv(project_home() / "bench" / "evidently", EVIDENTLY)
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"DO_NOT_TRACK": "1"}
        command = [str(python), "-W", "ignore", "-c", PRESET, *paths]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=1_800)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"Evidently could not run, so there is no ratio: {str(error.stderr or error)[-400:]}")
        return []
    found = float(done.stdout.split()[-1])
    print(json.dumps({"evidently_seconds": round(found, 2), "rows": ROWS}))
    return [found]
