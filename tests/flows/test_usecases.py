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
from flows.steps.data import cohorts, contract
from flows.steps.training.search import SPACES
from flows.stores import features
from flows.usecases import fraud
from flows.usecases.spec import Column, FeatureTable, UseCase

KNOWN = usecases.known()
BY_EVENT = [name for name in KNOWN if usecases.load(name).by_event]
every = pytest.mark.parametrize("name", KNOWN)
every_cohort = pytest.mark.parametrize("name", sorted(set(KNOWN) - set(BY_EVENT)))
every_event = pytest.mark.parametrize("name", BY_EVENT)
every_table = pytest.mark.parametrize(
    ("name", "table"),
    [(name, table) for name in KNOWN for table in usecases.load(name).tables],
    ids=lambda value: value if isinstance(value, str) else value.entity,
)


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
        if pd.api.types.is_integer_dtype(frame[key]) and key not in use_case.keys:
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
    """Both are among the declared ones, one by cut-offs and one by events; the spec is not taken for one."""
    assert {"churn", "fraud"} <= set(KNOWN)
    assert BY_EVENT == ["fraud"]
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
    """The table has every entity, a time column of kind time, and what requests bring; none of it may be missing."""
    case = usecases.load(name)
    columns = {c.name: c for c in case.contract.columns}
    assert columns[case.time].kind == "time"
    needed = (*case.keys, case.time, *(f.name for f in case.request if f.kind == "number"))
    assert not [key for key in needed if columns[key].nullable]


@every_event
def test_an_events_label_is_a_column_known_after_the_horizon(name: str) -> None:
    """The label stands in the table, only 0 and 1, and is hidden exactly as long as the horizon says."""
    case = usecases.load(name)
    label = next(c for c in case.contract.columns if c.name == case.label)
    assert (label.allowed, label.nullable, label.delay_days) == ((0, 1), True, case.horizon_days)


@every_event
def test_what_a_request_brings_has_the_contracts_range(name: str) -> None:
    """A row that the contract lets into training is one that the service takes, and the other way round."""
    case = usecases.load(name)
    columns = {c.name: c for c in case.contract.columns}
    for feature in case.request:
        if feature.kind == "number":
            assert (feature.minimum, feature.maximum) == (columns[feature.name].minimum, columns[feature.name].maximum)


@every
def test_costs_name_an_input_and_every_risk_but_the_lowest(name: str) -> None:
    """Costs are of an input of the model, one alarm for each threshold, rising."""
    case = usecases.load(name)
    if case.costs is None:
        assert len(case.risks) == 2
        return
    assert case.costs.miss in {f.name for f in case.request}
    assert len(case.costs.alarms) == len(case.risks) - 1
    assert list(case.costs.alarms) == sorted(case.costs.alarms)
    assert min(case.costs.alarms) > 0


@every
def test_names_refer_to_features_that_there_are(name: str) -> None:
    """Logged columns, slices, the sensitive column, estimators and risks are known; thresholds are in range."""
    case = usecases.load(name)
    names = {f.name for f in case.request}
    for table in case.tables:
        names |= set(table.build(events(case), cutoff(case)).columns) - {table.entity}
    assert set(case.log_features) <= names
    assert {s.feature for s in case.slices} <= names
    assert case.sensitive is None or case.sensitive in names
    assert case.estimators
    assert set(case.estimators) <= set(SPACES)
    assert len(set(case.risks)) == len(case.risks) >= 2
    assert case.horizon_days > 0
    for rule in ("min_roc_auc", "min_average_precision", "min_precision", "min_recall", "confidence"):
        assert 0 < getattr(case.gates, rule) < 1, rule


@every
def test_features_are_what_the_feature_repository_declares(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The declared service has exactly the built features, keyed by their entities; a ttl outlives the grid."""
    monkeypatch.setenv("BENTOFLOW_HOME", str(tmp_path))
    case = usecases.load(name)
    store = features.open_store(tmp_path)
    features.apply(store)
    views = features.service_views(store, case.feature_service)
    for table in case.tables:
        built = table.build(events(case), cutoff(case))
        declared = {f.name for v in views if list(v.join_keys) == [table.entity] for f in v.features}
        assert declared == set(built.columns) - {table.entity}
    assert {tuple(v.join_keys) for v in views} == {(key,) for key in case.keys}
    assert features.input_names(store, case)[-len(case.request) or 99 :] == [f.name for f in case.request]
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


@every_table
def test_features_are_one_row_per_known_entity(name: str, table: FeatureTable) -> None:
    """Everybody with an event before the moment has one row of numbers, nobody else does."""
    case, log = usecases.load(name), events(usecases.load(name))
    moment, key = cutoff(case), table.entity
    built = table.build(log, moment)
    assert built[key].is_unique
    assert set(built[key]) == set(log.loc[log[case.time] < moment, key])
    numbers = built.drop(columns=key)
    assert (numbers.dtypes == "float64").all()
    assert not np.isinf(numbers.to_numpy()).any()


@every_table
def test_features_do_not_see_the_future(name: str, table: FeatureTable) -> None:
    """Events at and after the moment do not change a feature, nor does the order of the events."""
    case, log = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    built = table.build(log, moment)
    at = log.assign(**{case.time: pd.Series(moment, index=log.index).dt.as_unit("us")})
    past = log[log[case.time] < moment]
    same(table.build(pd.concat([past, at], ignore_index=True), moment), built, table.entity)
    same(table.build(log.sample(frac=1, random_state=2), moment), built, table.entity)
    before = at.assign(**{case.time: at[case.time] - pd.Timedelta(microseconds=1)})
    known = table.build(pd.concat([past, before], ignore_index=True), moment)
    assert not known.equals(built)


@every_table
def test_features_do_not_use_what_is_not_known_yet(name: str, table: FeatureTable) -> None:
    """Hiding what was still unknown at the moment changes no feature: a label counts once it is known, not before."""
    case, log = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    same(table.build(cohorts.known(case, log, moment), moment), table.build(log, moment), table.entity)
    for column in (c for c in case.contract.columns if c.delay_days):
        flipped = 1 - log[column.name].astype("int64")
        young = log[case.time] > moment - pd.Timedelta(days=column.delay_days)
        forged = log.assign(**{column.name: log[column.name].where(~young, flipped)})
        same(table.build(forged, moment), table.build(log, moment), table.entity)


@every_cohort
def test_labels_are_of_the_horizon_and_nothing_else(name: str) -> None:
    """0 or 1 per entity under its own index, and events outside `[cutoff, cutoff + horizon)` do not matter."""
    case, table = usecases.load(name), events(usecases.load(name))
    moment = cutoff(case)
    entities = case.build_features(table, moment)[case.entity]
    entities.index = pd.Index(range(100, 100 + len(entities)))
    assert case.build_labels is not None
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
    for each in case.further:
        each.build(table, cutoff(case))
    built = case.build_features(table, cutoff(case))
    entities = built[case.entity].copy()
    if case.build_labels is not None:
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


def test_simulated_payments_are_the_same_every_time_and_other_with_another_seed() -> None:
    """The generator is a pure function of its settings."""
    few = {"cards": 60, "terminals": 200, "days": 40}
    first, again, other = fraud.payments(**few), fraud.payments(**few), fraud.payments(**few, seed=8)
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    assert first["time"].is_monotonic_increasing
    assert first["transaction_id"].tolist() == list(range(1, len(first) + 1))


def test_simulated_fraud_follows_the_published_rules() -> None:
    """Large amounts are fraud, so is all at tampered terminals, and what is five times as dear of stolen cards."""
    log = fraud.payments()
    assert 0.02 < log["fraud"].mean() < 0.06
    assert (log.loc[log["amount"] > fraud.LARGE, "fraud"] == 1).all()
    honest = fraud.payments(terminals_a_day=0, cards_a_day=0)
    assert (honest["fraud"] == (honest["amount"] > fraud.LARGE)).mean() > 0.9999  # amounts are rounded afterwards
    stolen = fraud.payments(terminals_a_day=0)
    doubled = fraud.payments(terminals_a_day=0, factor=2.0)
    touched = stolen["amount"] != doubled["amount"]
    assert stolen.loc[touched, "fraud"].all()
    ratio = stolen.loc[touched, "amount"] / doubled.loc[touched, "amount"]
    assert ratio.median() == pytest.approx(2.5, abs=0.01)
    tampered = fraud.payments(cards_a_day=0)
    small = tampered[tampered["amount"] < fraud.LARGE - 0.01]  # amounts are rounded after the rule
    days = (small["time"] - fraud.START).dt.days
    by_day = small.groupby([small["terminal_id"], days])["fraud"].agg(["min", "max"])
    assert (by_day["min"] == by_day["max"]).all()


def test_card_features_by_hand() -> None:
    """Four payments of one card, the last one at midnight of the moment, counted with pencil and paper."""
    times = pd.to_datetime(
        ["2024-01-01", "2024-01-25", "2024-01-31 12:00", "2024-02-01"], utc=True, format="ISO8601"
    ).as_unit("us")
    log = pd.DataFrame({"card_id": 5, "terminal_id": 1, "time": times, "amount": [8.0, 10.0, 30.0, 900.0], "fraud": 0})
    (row,) = fraud.card_features(log, pd.Timestamp("2024-02-01", tz="UTC")).to_dict("records")
    assert row == {
        "card_id": 5,
        "card_count_1d": 1.0,
        "card_count_7d": 2.0,
        "card_count_30d": 2.0,
        "card_amount_1d": 30.0,
        "card_amount_7d": 20.0,
        "card_amount_30d": 20.0,
    }


def test_terminal_risk_by_hand() -> None:
    """Only payments that are a week old count for the risk, in windows that end a week ago; all count as payments."""
    times = pd.to_datetime(
        ["2024-01-20", "2024-01-24 12:00", "2024-01-25", "2024-01-31"], utc=True, format="ISO8601"
    ).as_unit("us")
    log = pd.DataFrame({"card_id": 1, "terminal_id": 9, "time": times, "amount": 1.0, "fraud": [1, 0, 1, 1]})
    (row,) = fraud.terminal_features(log, pd.Timestamp("2024-02-01", tz="UTC")).to_dict("records")
    assert [row[f"terminal_count_{d}d"] for d in (1, 7, 30)] == [1.0, 2.0, 4.0]
    assert [row[f"terminal_risk_{d}d"] for d in (1, 7, 30)] == [0.0, 0.5, 0.5]
