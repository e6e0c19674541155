"""Model search: bounded trials per estimator, and the simplest model within one standard error of the best."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from bentos.runtime.scoring.categories import Raw
from flows.usecases.spec import UseCase

Floats = NDArray[np.float64]
Suggest = Callable[[optuna.Trial], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One tried model: mean and standard deviation over the folds of the Brier skill, and the folds themselves."""

    estimator: str
    params: dict[str, Any]
    folds: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.folds))

    @property
    def deviation(self) -> float:
        return float(np.std(self.folds, ddof=1))


@dataclass(frozen=True, kw_only=True)
class Found:
    """The chosen trial, the best one, all of them, and the choice in a sentence."""

    chosen: Trial
    best: Trial
    trials: tuple[Trial, ...]
    reason: str


def _logistic(trial: optuna.Trial) -> dict[str, Any]:
    return {"C": trial.suggest_float("C", 1e-3, 10.0, log=True)}


def _forest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "max_depth": trial.suggest_int("max_depth", 4, 10),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 20, 200, log=True),
    }


def _boosting(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.2, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 31),
    }


SPACES: dict[str, Suggest] = {
    "logistic_regression": _logistic,
    "random_forest": _forest,
    "hist_gradient_boosting": _boosting,
}


def estimator(name: str, params: dict[str, Any], seed: int) -> Any:
    """An unfitted scikit-learn classifier; ValueError names the known ones."""
    match name:
        case "logistic_regression":
            return LogisticRegression(max_iter=1_000, **params)
        case "random_forest":
            return RandomForestClassifier(n_estimators=60, random_state=seed, **params)
        case "hist_gradient_boosting":
            return HistGradientBoostingClassifier(max_iter=80, early_stopping=False, random_state=seed, **params)
    raise ValueError(f"no estimator {name!r}; known: {', '.join(SPACES)}")


def log_columns(x: Floats, columns: Sequence[int]) -> Floats:
    """`log1p` of the named columns, negative values taken as 0; the others unchanged."""
    out = np.array(x, dtype=np.float64, copy=True)
    out[:, list(columns)] = np.log1p(np.maximum(out[:, list(columns)], 0.0))
    return out


def as_served(z: Floats) -> Floats:
    """The values rounded to float32, as the exported model takes them, so that no split falls between the two.

    Infinite where they are too large for float32.
    """
    with np.errstate(over="ignore"):
        return z.astype(np.float32).astype(np.float64)


def pipeline(
    use_case: UseCase, names: Sequence[str], name: str, params: dict[str, Any], categorical: Collection[str] = ()
) -> Pipeline:
    """Imputer, log, scaler, one-hot encoder and classifier over raw values [n, k] in the order of `names`.

    A categorical feature becomes one 0/1 column for each of its most frequent `max_categories` in the training rows,
    missing being one of them, and if there are more, one for the rest, never seen ones included.
    """
    texts = [i for i, feature in enumerate(names) if feature in categorical]
    numeric = [i for i in range(len(names)) if i not in texts]
    logged = [at for at, i in enumerate(numeric) if names[i] in use_case.log_features]
    numbers = [
        ("impute", SimpleImputer(strategy="median", keep_empty_features=True)),
        ("log", FunctionTransformer(log_columns, kw_args={"columns": logged})),
        ("scale", StandardScaler()),
        ("round", FunctionTransformer(as_served)),
    ]
    model = ("model", estimator(name, params, use_case.seed))
    if not texts:
        return Pipeline([*numbers, model])
    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=use_case.max_categories, sparse_output=False
    )
    parts = [("numbers", Pipeline(numbers), numeric)] if numeric else []
    return Pipeline([("columns", ColumnTransformer([*parts, ("categories", encoder, texts)])), model])


def cross_validate(model: Any, x: Raw, y: NDArray[np.int64], groups: NDArray[Any], folds: int) -> tuple[float, ...]:
    """Brier skill of every fold; an entity's rows stay in one fold, since it returns at every cut-off."""
    skills = []
    for train, test in GroupKFold(n_splits=folds).split(x, y, groups):
        scores = model.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
        base = float(np.mean(y[test]))
        skills.append(1.0 - float(brier_score_loss(y[test], scores)) / (base * (1.0 - base)))
    return tuple(skills)


def choose(trials: Sequence[Trial], order: Sequence[str]) -> Found:
    """The simplest estimator with a trial within one standard error of the best trial (Breiman et al. 1984)."""
    best = max(trials, key=lambda t: t.mean)
    error = best.deviation / len(best.folds) ** 0.5
    near = [t for t in trials if t.mean >= best.mean - error]
    simplest = min(near, key=lambda t: order.index(t.estimator)).estimator
    chosen = max((t for t in near if t.estimator == simplest), key=lambda t: t.mean)
    reason = f"{chosen.estimator} has the best cross-validated Brier skill, {best.mean:.4f}"
    if chosen.estimator != best.estimator:
        reason = (
            f"{chosen.estimator} ({chosen.mean:.4f}) is the simplest within one standard error ({error:.4f}) "
            f"of the best, {best.estimator} ({best.mean:.4f})"
        )
    return Found(chosen=chosen, best=best, trials=tuple(trials), reason=reason)


def search(
    use_case: UseCase,
    names: Sequence[str],
    x: Raw,
    y: NDArray[np.int64],
    groups: NDArray[Any],
    *,
    categorical: Collection[str] = (),
    folds: int = 4,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    progress: bool = False,
) -> Found:
    """Tries `use_case.trials` models, the same number of each estimator, on at most `max_search_rows` rows.

    `x` raw values [n, k], `y` int64[n], `groups` the entity of each row. Deterministic for the use case's seed.
    """
    rows = np.random.default_rng(use_case.seed).permutation(len(y))[: use_case.max_search_rows]
    trials: list[Trial] = []
    each = max(1, use_case.trials // len(use_case.estimators))

    for name in use_case.estimators:

        def objective(trial: optuna.Trial, name: str = name) -> float:
            params = SPACES[name](trial)
            model = pipeline(use_case, names, name, params, categorical)
            scores = cross_validate(model, x[rows], y[rows], groups[rows], folds)
            trials.append(Trial(estimator=name, params=params, folds=scores))
            on_trial(trials[-1])
            return trials[-1].mean

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=use_case.seed))
        study.optimize(objective, n_trials=each, show_progress_bar=progress)
    return choose(trials, use_case.estimators)
