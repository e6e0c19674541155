"""The judgement of a canary's step: what is broken is stopped, what is equal passes."""

import numpy as np
import pytest

from flows.steps.rollouts import canary
from flows.steps.rollouts.canary import Figures, Limits, Scores

LIMITS = Limits()
FAST = Figures(answered=1_000, failed=0, seconds=1.0, parts=1_000)


def drawn(n: int = 300, seed: int = 0, *, symmetric: bool = False) -> np.ndarray:
    """Scores of n entities as a champion gives them: mostly high, or symmetric around 0.5."""
    rng = np.random.default_rng(seed)
    return rng.beta(2, 2, n) if symmetric else rng.beta(5, 2, n)


def scores(ours: np.ndarray, theirs: np.ndarray, *, paired: bool = True, labels: np.ndarray | None = None) -> Scores:
    return Scores(canary=ours, champion=theirs, paired=paired, labels=np.empty(0) if labels is None else labels)


def timed(times: dict[float, int]) -> Figures:
    """So many parts of batches that took so many seconds each."""
    bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0, 5.0)
    return Figures(
        seconds=sum(t * n for t, n in times.items()),
        parts=sum(times.values()),
        within=tuple((bound, sum(n for t, n in times.items() if t <= bound)) for bound in bounds),
    )


def failed(found: tuple[canary.Check, ...]) -> list[str]:
    return [check.name for check in found if not check.passed]


@pytest.mark.parametrize("paired", [True, False])
def test_an_equal_release_passes_every_step(paired):
    """A/A: in 200 draws of 20 to 2,000 entities and figures of one service nothing is stopped."""
    rng = np.random.default_rng(1)
    for seed in range(200):
        n = int(rng.choice([20, 50, 200, 2_000]))
        theirs = drawn(n, seed)
        ours = theirs if paired else drawn(n, seed + 1_000)
        rows = Figures(answered=int(n - (lost := rng.binomial(n, 0.01))), failed=int(lost), seconds=0.001 * n, parts=n)
        others = Figures(answered=990, failed=10, seconds=1.1, parts=1_000)
        y = rng.binomial(1, theirs).astype(np.float64)
        found = canary.judge(rows, others, scores(ours, theirs, paired=paired, labels=y), LIMITS)
        assert failed(found) == [], [check.reason for check in found]


@pytest.mark.parametrize("n", [20, 200, 5_000])
@pytest.mark.parametrize("symmetric", [False, True])
def test_inverted_scores_are_stopped(n, symmetric):
    """Also where the inverted scores have the same distribution, and on twenty entities."""
    theirs = drawn(n, symmetric=symmetric)
    found = canary.judge(FAST, FAST, scores(1 - theirs, theirs), LIMITS)
    assert "agreement" in failed(found)


@pytest.mark.parametrize("n", [100, 5_000])
def test_inverted_scores_are_stopped_by_their_distribution_too(n):
    """Where the champion cannot score the canary's rows, a skewed distribution tells."""
    found = canary.judge(FAST, FAST, scores(1 - drawn(n), drawn(n, 1), paired=False), LIMITS)
    assert failed(found) == ["distribution"]


@pytest.mark.parametrize("ours", [np.full(300, 0.5), np.full(300, 1.0)], ids=["half", "one"])
def test_constant_scores_are_stopped(ours):
    """A model that says the same to everyone disagrees with one that does not."""
    assert "distribution" in failed(canary.judge(FAST, FAST, scores(ours, drawn()), LIMITS))
    assert "agreement" in failed(canary.judge(FAST, FAST, scores(ours, drawn()), LIMITS))


def test_shuffled_scores_are_stopped():
    """Scores without any relation to the champion's have the right distribution and no agreement."""
    theirs = drawn(1_000)
    ours = np.random.default_rng(5).permutation(theirs)
    assert failed(canary.judge(FAST, FAST, scores(ours, theirs), LIMITS)) == ["agreement"]


def test_a_better_model_of_the_same_thing_passes():
    """Two noisy views of one truth agree enough, and moderately different spreads are no shift."""
    rng = np.random.default_rng(2)
    truth = rng.normal(1.0, 1.0, 800)
    ours, theirs = (1 / (1 + np.exp(-(truth * k + rng.normal(0, s, 800)))) for k, s in ((1.1, 0.2), (0.9, 0.4)))
    y = rng.binomial(1, 1 / (1 + np.exp(-truth))).astype(np.float64)
    assert failed(canary.judge(FAST, FAST, scores(ours, theirs, labels=y), LIMITS)) == []


def test_early_labels_stop_a_worse_model():
    """A canary that agrees in order but is surely worse on labelled rows is stopped; unknown labels are left out."""
    rng = np.random.default_rng(3)
    theirs = rng.uniform(0.02, 0.98, 2_000)
    y = rng.binomial(1, theirs).astype(np.float64)
    ours = np.clip(theirs * 0.7, 0, 1)
    some = np.where(rng.random(2_000) < 0.5, y, np.nan)
    found = canary.labels(scores(ours, theirs, labels=some), LIMITS)
    assert not found.passed
    assert f"on {int((~np.isnan(some)).sum())} labels" in found.reason
    assert canary.labels(scores(theirs, ours, labels=some), LIMITS).passed
    few = np.where(np.arange(2_000) < 49, y, np.nan)
    assert canary.labels(scores(ours, theirs, labels=few), LIMITS).reason == "49 labels so far: not compared"


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [
        (Figures(answered=0, failed=200), FAST, False),
        (Figures(answered=180, failed=20), FAST, False),
        (Figures(answered=198, failed=2), FAST, True),
        (Figures(answered=180, failed=20), Figures(answered=900, failed=100), True),
        (Figures(answered=9_950, failed=50), Figures(answered=10_000, failed=0), True),
        (Figures(answered=0, failed=200), Figures(), False),
    ],
    ids=["all", "a tenth", "by chance", "as the champion", "real but small", "without a champion's rows"],
)
def test_errors_stop_a_canary_when_they_are_many_and_no_chance(ours, theirs, passed):
    """Only a difference that is both beyond 1 % and beyond chance counts."""
    assert canary.errors(ours, theirs, LIMITS).passed is passed


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [
        (timed({0.05: 100}), timed({0.001: 100}), False),
        (timed({0.005: 100}), timed({0.001: 100}), True),
        (timed({0.025: 100}), timed({0.01: 100}), True),
        (timed({0.05: 100}), timed({0.01: 100}), False),
        (timed({0.001: 99, 5.0: 1}), timed({0.001: 100}), True),
        (timed({0.001: 90, 1.0: 10}), timed({0.001: 1_000}), False),
        (timed({0.001: 90, 1.0: 10}), timed({0.001: 900, 1.0: 100}), True),
        (timed({0.05: 3}), timed({0.001: 3}), True),
        (timed({0.05: 100}), Figures(), False),
        (Figures(), timed({0.001: 100}), True),
    ],
    ids=[
        *("slow", "below 5 ms", "about twice", "five times", "one pause", "a tenth", "as the champion"),
        *("too few to tell", "without a champion", "nothing timed"),
    ],
)
def test_a_slow_canary_is_stopped(ours, theirs, passed):
    """Where more than 5 % of its batches are slow, more than the champion's and than chance gives."""
    assert canary.latency(ours, theirs, LIMITS).passed is passed


def test_too_few_entities_are_no_evidence():
    """Nine entities do not pass a step."""
    assert failed(canary.judge(FAST, FAST, scores(drawn(9), drawn(9)), LIMITS)) == ["distribution"]


def test_counters_that_began_anew_count_as_they_are():
    """A service that restarted during a step has lost nothing that it counted since."""
    early = Figures(answered=100, failed=5, seconds=2.0, parts=50, within=((0.1, 45),))
    late = Figures(answered=140, failed=5, seconds=3.0, parts=60, within=((0.1, 50),))
    assert late.since(early) == Figures(answered=40, seconds=1.0, parts=10, within=((0.1, 5),))
    again = Figures(answered=30, failed=0, seconds=0.5, parts=10)
    assert again.since(early) == again


@pytest.mark.parametrize("steps", [(0, 10), (10, 10), (50, 10), (10, 101), (-1,)])
def test_impossible_steps_are_refused(steps):
    """Steps rise from 1 to 100 at most."""
    with pytest.raises(ValueError, match="rising percentages from 1 to 100"):
        canary.checked_steps(steps)


def test_steps_are_kept_in_order():
    """What is possible comes back as it was given."""
    assert canary.checked_steps([1, 10, 50, 100]) == (1, 10, 50, 100)
    assert canary.checked_steps([]) == ()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 1], [1, 2], 0.0),
        ([1, 1], [2, 2], 1.0),
    ],
)
def test_rank_correlation(a, b, expected):
    """Same order 1, inverted -1, one side constant 0, both constant 1."""
    assert canary.rank_correlation(np.array(a, float), np.array(b, float)) == pytest.approx(expected)


def figures(parts: int, slow: int) -> Figures:
    """Parts of batches of which some took longer than 5 ms."""
    return Figures(answered=parts, seconds=parts / 1_000, parts=parts, within=((0.005, parts - slow), (1.0, parts)))


def test_a_machine_that_became_slow_is_no_fault_of_the_canary() -> None:
    """The champion is compared by the same step, in which it was as slow; a slow canary is stopped all the same."""
    ours, step, quiet = figures(20, 10), figures(60, 28), figures(123, 7)
    theirs = canary.comparable(ours, step, quiet)
    assert theirs == step
    assert canary.latency(ours, theirs, Limits()).passed
    assert not canary.latency(ours, canary.comparable(ours, figures(60, 2), quiet), Limits()).passed


@pytest.mark.parametrize("parts", [0, 10])
def test_without_enough_of_the_step_the_whole_walk_is_compared(parts: int) -> None:
    """At 100 % the champion answers nothing any more."""
    whole = figures(123, 7)
    assert canary.comparable(figures(20, 0), figures(parts, 0), whole) == whole
