"""Figures: ratios of interleaved rounds, what is merged, and what makes the benchmark fail."""

import json

import pytest

from tests.bench import __main__, figures, serving
from tests.bench.figures import Figure
from tests.bench.serving import rounds


def test_a_ratio_is_the_median_of_the_rounds_own():
    """Other load changes both sides of a round, so each round is divided on its own, not one median by another."""
    found = figures.ratio("x", ours=[100.0, 10.0, 60.0], theirs=[10.0, 2.0, 3.0])
    assert (found.value, found.baseline, found.spread) == (10.0, 3.0, (5.0, 20.0))
    with pytest.raises(ValueError, match="longer"):
        figures.ratio("x", [1.0], [1.0, 2.0])


def test_a_figure_tells_its_median_with_lowest_and_highest_round():
    """One round far off moves the spread, not the value; a baseline is in the same unit."""
    found = figures.compared("x", [3.0, 1.0, 100.0], [7.0, 9.0, 8.0], "ms")
    assert found == Figure("x", 3.0, "ms", 8.0, (1.0, 100.0))
    assert figures.compared("x", [3.0], None, "ms") == figures.plain("x", [3.0], "ms")


def test_figures_of_the_same_name_are_replaced_and_others_stay(tmp_path):
    """Measuring one case again leaves what other cases and benchmarks found."""
    path = tmp_path / "bench.json"
    figures.merge(path, [figures.plain("a", [1.0], "s"), figures.plain("b", [2.0], "s")])
    figures.merge(path, [figures.plain("a", [3.0], "s")])
    found = {f.pop("name"): f for f in json.loads(path.read_text())}
    assert found == {
        "a": {"value": 3.0, "unit": "s", "baseline": None, "spread": [3.0, 3.0]},
        "b": {"value": 2.0, "unit": "s", "baseline": None, "spread": [2.0, 2.0]},
    }


@pytest.mark.parametrize("failures", [0, 2])
def test_a_request_that_failed_fails_the_benchmark_after_its_figures_are_kept(tmp_path, monkeypatch, failures):
    """The exit status says that figures are of a service that did not answer everything."""
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path))
    monkeypatch.setattr(serving, "run", lambda: [Figure("serving.failures", failures, "", None, (failures, failures))])
    if failures:
        with pytest.raises(SystemExit, match=r"serving\.failures"):
            __main__.main(["serving"])
    else:
        __main__.main(["serving"])
    assert [f["value"] for f in json.loads((tmp_path / "bench.json").read_text())] == [failures]


def test_an_unknown_benchmark_or_case_is_named():
    """With those there are."""
    with pytest.raises(SystemExit, match=r"no benchmark srving; known: .*serving"):
        __main__.main(["srving"])
    with pytest.raises(SystemExit, match="BENCH_CASES names rows; known: row, user"):
        serving.chosen("row, rows")
    assert serving.chosen(" bulk,row ") == ["bulk", "row"]
    assert serving.chosen("") == list(serving.CASES)


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many"])
def test_a_setting_that_is_no_number_of_rounds_is_named(monkeypatch, text):
    """With what it is; empty is the default."""
    monkeypatch.setenv("BENCH_ROUNDS", text)
    with pytest.raises(SystemExit, match=f"BENCH_ROUNDS is '{text}'"):
        rounds.whole("BENCH_ROUNDS", 3)
    monkeypatch.setenv("BENCH_ROUNDS", " ")
    assert rounds.whole("BENCH_ROUNDS", 3) == 3
