"""Kinds of drift: the truth table of scenarios, and what a judgement says."""

from dataclasses import replace

import pytest

from bentos.runtime.monitoring import drift
from flows.steps.monitoring import kinds
from tests.flows.steps import scenarios

LOW = kinds.Level(how="estimated", value=0.70, low=0.68, high=0.72, promised=0.80)
HELD = replace(LOW, value=0.79, low=0.77, high=0.81)


def test_scenarios_are_called_what_they_are() -> None:
    """At least nine in ten verdicts on the labelled scenarios are the right kind; the table says which are not."""
    table = scenarios.confusion(range(2))
    right = sum(int(row.get(kind, 0)) for (_, kind), row in table.iterrows())
    assert right / table.to_numpy().sum() >= 0.9, f"\n{table}"


@pytest.mark.parametrize("name", [s.name for s in scenarios.SCENARIOS if s.kind == "data_bug"])
def test_no_broken_pipe_asks_for_a_training(name: str) -> None:
    """What a broken pipe makes is never called harmful, which would train on it."""
    scenario = next(s for s in scenarios.SCENARIOS if s.name == name)
    assert scenarios.judged(scenario, 11).kind == "data_bug"


def verdict(state: drift.State) -> drift.Verdict:
    column = drift.ColumnDrift(
        name="x", kind="numeric", n=900, psi=0.5, ks=0.3, missing_change=0, unseen_share=0, psi_noise=0.01,
        drifted=state == "drift", reason="moved",
    )  # fmt: skip
    return drift.Verdict(state=state, reasons=(), n=900, columns=(column,), rules=scenarios.RULES)


def test_moved_inputs_are_benign_while_quality_holds_and_harmful_when_it_fell() -> None:
    """The same drift is told apart by what is known of quality, and says its figures."""
    assert kinds.judge(verdict("drift"), (), HELD).kind == "benign"
    hurt = kinds.judge(verdict("drift"), (), LOW)
    assert (hurt.kind, hurt.levels) == ("harmful", (LOW,))
    assert "estimated ROC AUC 0.700 (0.680 to 0.720), promised 0.800" in hurt.why


def test_measured_quality_needs_no_moved_input_and_an_estimate_does() -> None:
    """Concept drift shows in labels alone; an estimate that fell on inputs that did not move is noise."""
    assert kinds.judge(verdict("none"), (), None, replace(LOW, how="measured")).kind == "harmful"
    assert kinds.judge(verdict("none"), (), LOW).kind == "none"


@pytest.mark.parametrize(
    "level",
    [
        replace(HELD, value=0.75, high=0.805),  # within its interval
        replace(HELD, value=0.78, low=0.775, high=0.785),  # surely lower, by less than the margin
    ],
)
def test_a_fall_within_the_interval_or_the_margin_is_none(level: kinds.Level) -> None:
    """Quality fell only if it is beyond its interval and beyond the stated margin."""
    assert not level.fell(scenarios.RULES)
    assert LOW.fell(scenarios.RULES)


def test_nothing_known_of_quality_is_said() -> None:
    """A release without a held-out quality has benign drift, and the sentence says that quality is unknown."""
    assert "nothing is known of quality" in kinds.judge(verdict("drift"), ()).why
    assert kinds.level("estimated", {}, kinds.Promise(value=0.8, low=0.7, high=0.9, since="1998-01-01")) is None
