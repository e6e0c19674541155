"""Search: bounded, repeatable, and the simplest model that is as good as the best."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flows.steps.training import search
from flows.steps.training.search import Trial, choose
from flows.usecases import churn

ORDER = ("logistic_regression", "random_forest", "hist_gradient_boosting")
NAMES = ("buys", "amount", "age")
CASE = replace(churn.USE_CASE, log_features=("buys", "amount"), trials=3, max_search_rows=300)


def data(n: int = 800) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[Any]]:
    """Each entity in two rows, one feature in ten missing."""
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.geometric(0.4, n), rng.lognormal(3, 1, n), rng.uniform(0, 12, n)]).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(np.log(x[:, 0]) * 2 - 1))).astype(np.int64)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y, np.arange(n) // 2


def trial(estimator: str, *folds: float) -> Trial:
    return Trial(estimator=estimator, params={"of": folds}, folds=folds)


def test_the_simplest_within_one_standard_error_is_chosen() -> None:
    """A forest within one standard error of boosting is preferred to it, logistic regression below that is not."""
    best = trial("hist_gradient_boosting", 0.20, 0.22, 0.24, 0.22)
    near = trial("random_forest", 0.21, 0.22, 0.22, 0.21)
    far = trial("logistic_regression", 0.10, 0.11, 0.12, 0.11)
    found = choose([far, near, best], ORDER)
    assert (found.chosen, found.best) == (near, best)
    assert "simplest within one standard error" in found.reason
    assert choose([far, best], ORDER).chosen == best


def test_of_one_estimator_the_best_trial_is_chosen() -> None:
    """Among the near trials of the simplest estimator the one with the highest mean wins."""
    best = trial("random_forest", 0.1, 0.3, 0.1, 0.3)
    worse, better = (
        trial("logistic_regression", 0.19, 0.19, 0.19, 0.19),
        trial("logistic_regression", 0.2, 0.2, 0.2, 0.19),
    )
    assert choose([worse, best, better], ORDER).chosen == better


def test_a_single_best_says_so() -> None:
    """Without a simpler rival the reason names the best and its figure."""
    found = choose([trial("logistic_regression", 0.2, 0.2, 0.2, 0.2)], ORDER)
    assert found.reason == "logistic_regression has the best cross-validated Brier skill, 0.2000"


def test_search_tries_as_many_of_each_and_is_repeatable() -> None:
    """The trials are divided among the estimators, each is announced, and the same seed gives the same search."""
    x, y, groups = data(400)
    told: list[Trial] = []
    first = search.search(CASE, NAMES, x, y, groups, folds=3, on_trial=told.append)
    assert [t.estimator for t in first.trials] == list(ORDER)
    assert tuple(told) == first.trials
    assert search.search(CASE, NAMES, x, y, groups, folds=3) == first
    assert first.best.mean > 0


def test_an_entity_stays_in_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entity is on both sides of a fold: who returns at every cut-off would tell its label."""
    x, y, groups = data()
    seen: list[tuple[set[int], set[int]]] = []

    class Spy:
        def fit(self, x: NDArray[np.float64], y: NDArray[np.int64]) -> "Spy":
            self.known = set(x[:, 0].astype(int))
            return self

        def predict_proba(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            seen.append((self.known, set(x[:, 0].astype(int))))
            return np.full((len(x), 2), 0.5)

    x[:, 0] = groups
    skills = search.cross_validate(Spy(), x, y, groups, 4)
    assert len(skills) == len(seen) == 4
    assert all(not known & asked for known, asked in seen)
    assert set.union(*(asked for _, asked in seen)) == set(groups)


def test_log_columns_takes_the_log_of_the_named_ones() -> None:
    """Negative values count as 0, the other columns and the input are left as they are."""
    x = np.array([[0.0, -5.0, 3.0], [np.e - 1, 1.0, np.nan]])
    before = x.copy()
    found = search.log_columns(x, [0, 1])
    np.testing.assert_allclose(found, [[0, 0, 3], [1, np.log(2), np.nan]])
    np.testing.assert_array_equal(x, before)


def test_an_unknown_estimator_is_named() -> None:
    """The error lists the known ones."""
    with pytest.raises(ValueError, match="no estimator 'svm'; known: logistic_regression"):
        search.estimator("svm", {}, 1)


@pytest.mark.parametrize("name", ORDER)
def test_every_estimator_has_a_space_and_fits(name: str) -> None:
    """What the space suggests is what the estimator takes, gaps in the data included."""
    import optuna

    x, y, _ = data(300)
    params = search.SPACES[name](optuna.trial.FixedTrial(FIXED[name]))
    model = search.pipeline(CASE, NAMES, name, params).fit(x, y)
    scores = model.predict_proba(x)[:, 1]
    assert ((scores >= 0) & (scores <= 1)).all()


FIXED: dict[str, dict[str, float]] = {
    "logistic_regression": {"C": 0.5},
    "random_forest": {"max_depth": 5, "min_samples_leaf": 20},
    "hist_gradient_boosting": {"learning_rate": 0.1, "max_leaf_nodes": 7},
}
