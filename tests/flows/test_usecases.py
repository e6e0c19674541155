"""The contract of a use case, run over every declared one."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows import usecases
from flows.environment import ROOT
from flows.errors import UseCaseError
from flows.steps import cohorts, contract
from flows.steps.search import SPACES
from flows.stores import features
from flows.usecases.spec import Column, UseCase

KNOWN = usecases.known()
every = pytest.mark.parametrize("name", KNOWN)


def values(column: Column, use_case: UseCase, rng: np.random.Generator, n: int) -> Any:
    """Random values that keep a column's rules; entities repeat, times spread over a year from the first cut-off."""
    if column.allowed:
        return rng.choice(np.array(column.allowed, dtype=object), n)
    if column.kind == "time":
        start = cohorts.utc(use_case.first_cutoff) - pd.Timedelta(days=60)
        return (start + pd.to_timedelta(rng.integers(0, 400 * 24, n), unit="h")).as_unit("us")
    if column.kind == "str":
        return np.array([f"{column.name}-{i}" for i in rng.integers(0, 40, n)], dtype=object)
    low = column.minimum if column.minimum is not None else 0.0
    high = column.maximum if column.maximum is not None else low + 60
    if column.kind == "int":
        return rng.integers(int(low), int(min(high, low + 60)), n, endpoint=True)
    return rng.uniform(low, high, n)


def events(use_case: UseCase, n: int = 1_500) -> pd.DataFrame:
    """A table that keeps the use case's contract."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({c.name: values(c, use_case, rng, n) for c in use_case.contract.columns})
    keys = list(use_case.contract.unique)
    for key in keys:
        if pd.api.types.is_integer_dtype(frame[key]) and key != use_case.entity:
            frame[key] = np.arange(1, n + 1)
    return frame.drop_duplicates(keys or None).reset_index(drop=True)


def cutoff(use_case: UseCase) -> pd.Timestamp:
    return cohorts.grid(
        use_case, cohorts.utc(use_case.first_cutoff), cohorts.utc(use_case.first_cutoff) + pd.Timedelta(days=150)
    )[-1]


def same(left: pd.DataFrame, right: pd.DataFrame, entity: str) -> None:
    """Equal whatever the order of rows; sums in another order differ in the last bits."""
    pd.testing.assert_frame_equal(
        left.sort_values(entity, ignore_index=True), right.sort_values(entity, ignore_index=True), rtol=1e-9
    )


def test_there_are_use_cases() -> None:
    """Churn is among the declared ones, and the spec is not taken for one."""
    assert "churn" in KNOWN
    assert not {"spec", "__init__"} & set(KNOWN)


def test_an_unknown_name_says_which_are_known() -> None:
    """The error names the known ones and the three files that make a new one."""
    with pytest.raises(UseCaseError, match=r"no use case 'froud'; known: .*churn.*feature_repo/froud\.py"):
        usecases.load("froud")


@every
def test_it_is_one_frozen_value_under_its_name(name: str) -> None:
    """The file declares a frozen UseCase of the file's own name."""
    case = usecases.load(name)
    assert isinstance(case, UseCase)
    assert case.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.name = "other"  # type: ignore[misc]


@every
def test_it_is_three_files(name: str) -> None:
    """Features, data and training, requests and answers each stand where their tool's users look."""
    for folder in ("feature_repo", "flows/usecases", "bentos"):
        assert (Path(ROOT) / folder / f"{name}.py").exists()


@every
def test_the_contract_holds_entity_and_time(name: str) -> None:
    """The table has the entity, and a time column of kind time; neither may be missing."""
    case = usecases.load(name)
    columns = {c.name: c for c in case.contract.columns}
    assert columns[case.time].kind == "time"
    assert not columns[case.time].nullable
    assert not columns[case.entity].nullable


@every
def test_names_refer_to_features_that_there_are(name: str) -> None:
    """Logged columns, slices, the sensitive column, estimators and risks are known; thresholds are in range."""
    case = usecases.load(name)
    names = set(case.build_features(events(case), cutoff(case)).columns) - {case.entity}
    assert set(case.log_features) <= names
    assert {s.feature for s in case.slices} <= names
    assert case.sensitive is None or case.sensitive in names
    assert case.estimators
    assert set(case.estimators) <= set(SPACES)
    assert len(set(case.risks)) == 2
    assert case.horizon_days > 0
    for rule in ("min_roc_auc", "min_average_precision", "min_precision", "min_recall", "confidence"):
        assert 0 < getattr(case.gates, rule) < 1, rule


@every
def test_features_are_what_the_feature_repository_declares(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The declared service has exactly the built features, keyed by the entity, with a ttl that outlives the grid."""
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path))
    case = usecases.load(name)
    store = features.open_store(tmp_path)
    features.apply(store)
    built = case.build_features(events(case), cutoff(case))
    assert set(features.feature_names(store, case.feature_service)) == set(built.columns) - {case.entity}
    views = features.service_views(store, case.feature_service)
    assert {key for v in views for key in v.join_keys} == {case.entity}
    start = cohorts.utc(case.first_cutoff)
    grid = cohorts.grid(case, start, start + pd.Timedelta(days=366))
    longest = max(b - a for a, b in pairwise(grid))
    assert all(not v.ttl or v.ttl >= longest for v in views)


@every
def test_its_sample_keeps_the_contract(name: str) -> None:
    """Values made from the contract's own rules pass it, so its rules do not contradict each other."""
    case = usecases.load(name)
    checked = contract.check(events(case), dataclasses.replace(case.contract, min_rows=1))
    assert checked.bad.empty


@every
def test_features_are_one_row_per_known_entity(name: str) -> None:
    """Everybody with an event before the moment has one row of numbers, nobody else does."""
    case, table = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    built = case.build_features(table, moment)
    assert built[case.entity].is_unique
    assert set(built[case.entity]) == set(table.loc[table[case.time] < moment, case.entity])
    numbers = built.drop(columns=case.entity)
    assert (numbers.dtypes == "float64").all()
    assert not np.isinf(numbers.to_numpy()).any()


@every
def test_features_do_not_see_the_future(name: str) -> None:
    """Events at and after the moment do not change a feature, nor does the order of the events."""
    case, table = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    built = case.build_features(table, moment)
    at = table.assign(**{case.time: pd.Series(moment, index=table.index).dt.as_unit("us")})
    past = table[table[case.time] < moment]
    same(case.build_features(pd.concat([past, at], ignore_index=True), moment), built, case.entity)
    same(case.build_features(table.sample(frac=1, random_state=2), moment), built, case.entity)
    before = at.assign(**{case.time: at[case.time] - pd.Timedelta(microseconds=1)})
    known = case.build_features(pd.concat([past, before], ignore_index=True), moment)
    assert not known.equals(built)


@every
def test_labels_are_of_the_horizon_and_nothing_else(name: str) -> None:
    """0 or 1 per entity under its own index, and events outside `[cutoff, cutoff + horizon)` do not matter."""
    case, table = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    entities = case.build_features(table, moment)[case.entity]
    entities.index = pd.Index(range(100, 100 + len(entities)))
    labels = case.build_labels(table, entities, moment)
    assert labels.dtype == "int64"
    assert labels.index.equals(entities.index)
    assert set(labels.unique()) <= {0, 1}
    end = moment + pd.Timedelta(days=case.horizon_days)
    inside = table[(table[case.time] >= moment) & (table[case.time] < end)]
    pd.testing.assert_series_equal(case.build_labels(inside, entities, moment), labels)
    late = table.assign(**{case.time: pd.Series(end, index=table.index).dt.as_unit("us")})
    forged = pd.concat([inside, late], ignore_index=True)
    pd.testing.assert_series_equal(case.build_labels(forged, entities, moment), labels)


@every
def test_functions_leave_their_input_alone(name: str) -> None:
    """Building features and labels changes no event and no entity."""
    case, table = usecases.load(name), events(usecases.load(name))
    before = table.copy(deep=True)
    built = case.build_features(table, cutoff(case))
    entities = built[case.entity].copy()
    case.build_labels(table, entities, cutoff(case))
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_series_equal(entities, built[case.entity])


def test_churn_features_by_hand() -> None:
    """Three purchases of one customer, the last one at midnight of the moment, counted with pencil and paper."""
    case = usecases.load("churn")
    days = pd.to_datetime(["1997-01-01", "1997-05-12", "1997-06-01"], utc=True).as_unit("us")
    table = pd.DataFrame({"user_id": 7, "purchased_at": days, "items": [1, 3, 9], "amount": [10.0, 20.0, 900.0]})
    (row,) = case.build_features(table, pd.Timestamp("1997-06-01", tz="UTC")).to_dict("records")
    months = 151 / (365.25 / 12)
    assert row == {
        "user_id": 7,
        "total_purchases": 2.0,
        "avg_purchase_amount": 15.0,
        "avg_items": 2.0,
        "tenure_months": pytest.approx(months),
        "recency_days": 20.0,
        "purchase_frequency": pytest.approx(2 / months),
        "purchases_90d": 1.0,
        "spend_90d": 20.0,
    }


def test_churn_labels_by_hand() -> None:
    """A purchase on the day of the cut-off or 89 days later is no churn, one 90 days later is."""
    case = usecases.load("churn")
    days = pd.to_datetime(["1997-06-01", "1997-08-29", "1997-08-30", "1997-05-31"], utc=True).as_unit("us")
    table = pd.DataFrame({"user_id": [1, 2, 3, 4], "purchased_at": days, "items": 1, "amount": 1.0})
    labels = case.build_labels(table, pd.Series([1, 2, 3, 4]), pd.Timestamp("1997-06-01", tz="UTC"))
    assert labels.tolist() == [0, 0, 1, 1]
