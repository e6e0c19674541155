"""The backtest: policies rank as a simulated year's truth does, and nobody sees what was not known yet."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from flows.errors import ContractError
from flows.steps.backtesting import past as pasts
from flows.steps.backtesting import policies, recommendation, replay
from flows.steps.backtesting.past import Past
from flows.steps.backtesting.replay import Step
from flows.steps.backtesting.work import Work
from flows.steps.data import cohorts
from flows.usecases import churn
from tests.flows.steps import years

SINCE = pd.Timestamp("2023-03-01", tz="UTC")
TRUTH = {"concept": "performance", "covariate": "never", "none": "never"}  # the cheapest that truly is as good as any
AROUND = pd.date_range("2023-06-21", periods=6, freq="14D", tz="UTC")  # the relation turns on 2023-07-10
BOTH = policies.Policy(name="both", says="", watches=("drift", "degradation"))
ALWAYS = policies.Policy(name="always", says="", period="D")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in a real training: on tables this small more threads of a numerical library wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def calm() -> Work:
    """The work of a year without any change, shared."""
    return years.work(years.past(years.year("none").rows))


@pytest.mark.parametrize("kind", years.KINDS)
def test_policies_rank_as_the_simulators_truth_does(kind: str) -> None:
    """What is measured with labels ranks policies as the true probabilities do, and so does the recommendation."""
    made = years.year(kind)
    moments = pasts.moments(years.past(made.rows), SINCE)
    done, runs, found = years.backtest(years.past(made.rows), moments)
    true = {run.policy.name: years.true_skill(made, done, run, moments) for run in runs}
    seen = {run.policy.name: float(np.mean(run.values())) for run in runs}
    assert all(abs(seen[name] - true[name]) < 0.03 for name in true), (seen, true)
    apart = [(a, b) for a in true for b in true if true[a] - true[b] > 0.01]
    assert all(seen[a] > seen[b] for a, b in apart), (seen, true)
    good = [run for run in runs if true[run.policy.name] >= max(true.values()) - years.CASE.gates.min_gain]
    assert found.policy == min(good, key=lambda run: run.seconds).policy.name == TRUTH[kind]
    trained = {run.policy.name: run.trainings for run in runs}
    assert trained["monthly"] == 9
    assert trained["never"] == 0
    assert (trained["performance"] > 0) == (kind == "concept")
    if kind == "concept":  # inputs did not move, so that only labels can tell: the drift policy is blind, and told so
        assert trained["drift"] == 0
        assert true["performance"] - true["drift"] > 0.3


def steps(whole: Past, policy: policies.Policy) -> list[Step]:
    done = years.work(whole)
    first = done.trained(AROUND[0]).value
    return list(replay.replay(policy, done, AROUND, first).steps)


def decided(found: list[Step], until: int) -> list[dict[str, object]]:
    """What was decided, without what it cost, at the first so many moments."""
    free = ("training_s", "watching_s", "quality", "rows")
    return [{k: v for k, v in asdict(step).items() if k not in free} for step in found[:until]]


@pytest.mark.parametrize("policy", [BOTH, ALWAYS], ids=lambda p: p.name)
def test_no_policy_sees_the_future(policy: policies.Policy) -> None:
    """Other rows from a moment on, and other labels that were not mature then, change nothing decided up to it."""
    rows, at = years.year("concept").rows, 3
    moment = AROUND[at]
    before = steps(years.past(rows), policy)
    assert any(step.fitted for step in before[: at + 1])
    later = rows.times >= pasts.naive(moment)
    planted = steps(years.past(years.changed(rows, later, x=True)), policy)
    assert decided(planted, at + 1) == decided(before, at + 1)
    assert [s.quality for s in planted[:at]] == [s.quality for s in before[:at]]
    assert planted[at].quality != before[at].quality
    open_still = rows.times > pasts.naive(moment - pd.Timedelta(days=years.CASE.horizon_days))
    relabelled = steps(years.past(years.changed(rows, open_still, x=False)), policy)
    assert decided(relabelled, at + 1) == decided(before, at + 1)
    mature = ~open_still & (rows.times >= pasts.naive(AROUND[at - 1]))
    other = steps(years.past(years.changed(rows, mature, x=False)), policy)
    assert decided(other, at + 1) != decided(before, at + 1)  # what was known does count


def test_the_drift_policy_sees_the_answers_before_a_moment_and_none_after() -> None:
    """Other inputs from a moment on are not seen then; in the window before they are, and ask for a training."""
    rows, at = years.year("none").rows, 2
    case = replace(years.CASE, drift=replace(years.CASE.drift, refresh_windows=1))
    policy = policies.Policy(name="drift", says="", watches=("drift",))

    def asked(planted: NDArray[np.bool_]) -> list[str]:
        whole = replace(years.past(years.changed(rows, planted, x=True)), case=case)
        return [step.asked for step in steps(whole, policy)[: at + 1]]

    assert asked(rows.times >= pasts.naive(AROUND[at])) == ["", "", ""]
    before = (rows.times >= pasts.naive(AROUND[at - 1])) & (rows.times < pasts.naive(AROUND[at]))
    assert [bool(text) for text in asked(before)] == [False, False, True]


def test_the_breaker_holds_up_a_policy_as_it_would_live() -> None:
    """After as many rejected candidates as the use case declares, the replay trains no more and says why."""
    rows = years.year("concept").rows
    case = replace(years.CASE, retraining=replace(years.CASE.retraining, breaker=2))
    found = steps(replace(years.past(rows), case=case), BOTH)
    assert [step.outcome for step in found if step.asked][:3] == ["REJECT", "REJECT", "held"]
    assert "the last 2 candidates" in next(step.reason for step in found if step.outcome == "held")


def test_the_oracle_is_never_beaten(calm: Work) -> None:
    """In every window the oracle's model is at least as good as any that a policy had."""
    first = calm.trained(AROUND[0]).value
    best = replay.oracle(calm, AROUND)
    for policy in (BOTH, ALWAYS):
        run = replay.replay(policy, calm, AROUND, first, gated=False)
        assert all(a >= b for a, b in zip(best.values(), run.values(), strict=True))
    assert best.trainings == len(AROUND) - 1


def test_without_gates_every_new_model_answers(calm: Work) -> None:
    """With gates a model answers only once it is promoted; without them also one that the gates would hold."""
    first = calm.trained(AROUND[0]).value
    gated, free = (replay.replay(ALWAYS, calm, AROUND, first, gated=g) for g in (True, False))
    assert "HOLD" in [step.outcome for step in gated.steps]
    for before, step in pairwise(gated.steps):
        assert step.model == (step.moment[:10] if step.outcome == "PROMOTE" else before.model)
    assert [step.model for step in free.steps] == [str(moment.date()) for moment in AROUND]


def test_work_is_done_once_and_billed_to_everybody(calm: Work) -> None:
    """Two policies that train at the same moments pay the same, for one training."""
    first = calm.trained(AROUND[0]).value
    one, other = (replay.replay(ALWAYS, calm, AROUND, first) for _ in range(2))
    assert one == other
    assert one.seconds > 0
    assert calm.trained(AROUND[1]) is calm.trained(AROUND[1])


def test_moments_are_those_with_a_model_to_train_and_labels_of_what_came_next() -> None:
    """Of the purchase log until July 1998: the first training in October 1997, the last cohort labelled in June."""
    whole = Past(
        case=churn.USE_CASE, rows=years.year("none").rows, until=pd.Timestamp("1998-07-01", tz="UTC"), step="MS"
    )
    found = pasts.moments(whole)
    assert (str(found[0].date()), str(found[-1].date()), len(found)) == ("1997-10-01", "1998-04-01", 7)
    assert pasts.moments(replace(whole, until=pd.Timestamp("1997-05-01", tz="UTC"))) == []
    assert pasts.moments(whole, pd.Timestamp("1998-01-15", tz="UTC"))[0] == pd.Timestamp("1998-02-01", tz="UTC")


def test_events_are_replayed_from_whole_training_windows_on_where_enough_are_left() -> None:
    """48 days after the first rows 28 days can be trained on; with fewer than four windows after that, any will do."""
    year = years.past(years.year("none").rows)
    assert pasts.moments(year)[0] == pd.Timestamp("2023-02-19", tz="UTC")
    assert pasts.moments(replace(year, until=pd.Timestamp("2023-04-19", tz="UTC")))[0] == pd.Timestamp(
        "2023-02-19", tz="UTC"
    )
    short = replace(year, until=pd.Timestamp("2023-04-18", tz="UTC"))  # one day less than the fourth window needs
    assert pasts.moments(short)[0] == pd.Timestamp("2023-01-22", tz="UTC")


def test_a_step_is_the_grids_or_so_many_days_of_events() -> None:
    """Rows by cut-off are decided at their grid, and asking for days there is refused with the reason."""
    assert pasts.step_of(churn.USE_CASE, None) == "MS"
    assert (pasts.step_of(years.CASE, None), pasts.step_of(years.CASE, 1)) == ("14D", "1D")
    with pytest.raises(ContractError, match=r"churn has rows at the cut-offs of its grid \(MS\)"):
        pasts.step_of(churn.USE_CASE, 7)
    with pytest.raises(ContractError, match="a step of -1 days"):
        pasts.step_of(years.CASE, -1)


@pytest.mark.parametrize("moment", ["2023-03-01", "2023-08-16", "2023-12-20"])
def test_a_training_takes_the_rows_that_a_real_one_would(moment: str) -> None:
    """Of events: the windows that `cohorts` cuts; held-out labels are mature, those of training rows were before."""
    whole, at = years.past(years.year("none").rows), pd.Timestamp(moment, tz="UTC")
    train, test = pasts.examples(whole, at)
    cut = cohorts.event_windows(years.CASE, at)
    assert pasts.mature(whole, test, at).all()
    assert test.times.min() >= pasts.naive(cut.test)
    assert pasts.mature(whole, train, cut.test).all()
    assert train.times.min() >= pasts.naive(cut.train[0])


@pytest.mark.parametrize(
    ("first", "periods", "freq", "days", "expected"),
    [
        ("1997-11-01", 6, "MS", 31, ["monthly", "quarterly"]),
        ("2024-02-07", 6, "7D", 7, ["weekly", "monthly"]),
        ("2024-03-05", 20, "D", 1, ["daily", "weekly"]),
    ],
)
def test_schedules_are_those_that_fit_the_step(
    first: str, periods: int, freq: str, days: float, expected: list[str]
) -> None:
    """No schedule is finer than the step, and each comes round at least once."""
    moments = list(pd.date_range(first, periods=periods, freq=freq, tz="UTC"))
    names = [p.name for p in policies.choices(moments, days)]
    assert names == ["never", *expected, "drift", "performance", "drift and performance"]


def test_a_schedule_is_due_once_in_its_period() -> None:
    """Weekly on a daily step: at the first moment of each new week, whatever was trained in between."""
    weekly = policies.Policy(name="weekly", says="", period="W")
    days = pd.date_range("2024-03-04", periods=15, freq="D", tz="UTC")  # a Monday
    last, found = days[0], []
    for day in days[1:]:
        if weekly.due(day, last):
            last = day
            found.append(str(day.date()))
    assert found == ["2024-03-11", "2024-03-18"]


def test_a_difference_of_independent_windows_is_the_paired_t_interval() -> None:
    """With one lag the Diebold-Mariano interval, corrected for small samples, is Student's own."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.3, 0.1, 12), rng.normal(0.25, 0.1, 12)
    found = recommendation.difference(a, b, 1)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert recommendation.difference(a, a, 3) == recommendation.Interval(0.0, 0.0, 0.0)


def test_windows_that_share_labels_give_a_wider_interval() -> None:
    """Differences that go together over three windows are worth fewer independent ones."""
    smooth = np.convolve(np.random.default_rng(0).normal(size=42), np.ones(3) / 3, "valid")
    one, three = (recommendation.difference(smooth, np.zeros(40), lags) for lags in (1, 3))
    assert three.high - three.low > 1.3 * (one.high - one.low)


def test_too_few_windows_recommend_nothing(calm: Work) -> None:
    """With three windows there are figures but no recommendation, and it says how many are needed."""
    few = list(AROUND[:3])
    run = replay.replay(policies.choices(few, 14)[0], calm, few, calm.trained(few[0]).value)
    found = recommendation.recommend(calm, [run], few)
    assert (found.policy, found.windows) == ("", 3)
    assert "4 are needed" in found.why
