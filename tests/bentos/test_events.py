"""Event rows: their own time decides what is known, several entities are read at once, a bad row fails alone."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from msgspec import to_builtins

from bentos.fraud import FraudRequest
from bentos.runtime.answers import Answer, RowError
from bentos.runtime.features.joined import JoinedReader
from bentos.runtime.features.rows import FeatureRows, View, dated
from bentos.runtime.journal import Journal, scan
from bentos.runtime.rollouts.understudy import Understudy
from bentos.runtime.scoring.categories import rows_to_raw
from bentos.runtime.scoring.decisions import Decider
from bentos.runtime.scoring.manifest import Feature, Manifest, ManifestError, parse
from bentos.runtime.scoring.release import Release
from bentos.runtime.scoring.request import RequestFeature, matrix, outside
from bentos.runtime.scoring.scorer import Scorer
from bentos.runtime.scoring.wire import Wire

from .conftest import NOW, fit, make_manifest, records, to_onnx

NOON = NOW + timedelta(hours=12)
GIVEN = {"recency": 12.0, "spend": 80.0, "hour": 3.0}
CARD, TERMINAL, NEW = 1, 7, 99


class Stored:
    """Stands in for one entity's online store: a value and its event time per key."""

    local = True

    def __init__(self, name: str, rows: dict[int, tuple[float, datetime]], ttl: timedelta) -> None:
        self.names, self.rows = (name,), rows
        self.views = (View(name, ttl, (0,)),)
        self.fails = False

    def read(self, ids: Any, now: Any) -> FeatureRows:
        """The stored rows at each row's time."""
        if self.fails:
            raise ConnectionError("gone")
        found = [self.rows.get(i) for i in ids]
        values = np.array([[np.nan if f is None else f[0]] for f in found])
        times = np.array([[0 if f is None else int(f[1].timestamp()) for f in found]], dtype=np.int64)
        return dated(values, times, self.views, now)


def stores() -> tuple[Stored, Stored]:
    day = timedelta(days=1)
    cards = {CARD: (12.0, NOW), 2: (30.0, NOW - 3 * day)}
    return Stored("recency", cards, 2 * day), Stored("spend", {TERMINAL: (80.0, NOW)}, 2 * day)


def manifest(**changes: Any) -> Manifest:
    return make_manifest(
        **{
            "use_case": "fraud",
            "entity": "card_id",
            "others": ("terminal_id",),
            "features": (
                Feature(name="recency", fill=30.0, mean=40.0, scale=20.0),
                Feature(name="spend", fill=50.0, mean=3.5, scale=1.2, log=True),
                Feature(name="hour", fill=12.0, mean=12.0, scale=6.0),
            ),
            "request": (RequestFeature(name="hour", minimum=0.0, maximum=24.0),),
            "time": "time",
            "risks": ("LOW", "MEDIUM", "HIGH"),
            "thresholds": (0.3, 0.6),
            "threshold": 0.6,
            **changes,
        }
    )


def decider(readers: tuple[Stored, Stored] | None = None, **changes: Any) -> Decider:
    found = manifest(**changes)
    names = [n for n in ("recency", "spend") if n in found.names]
    return Decider(
        "champion", Release("v1", "1", found, Scorer(found, fit()), JoinedReader(readers or stores(), names))
    )  # type: ignore[arg-type]


def row(**changes: Any) -> dict[str, Any]:
    return {"card_id": CARD, "terminal_id": TERMINAL, "hour": 12.0, "time": NOON, **changes}


def ask(*rows: dict[str, Any], by: Decider | None = None) -> tuple[list[Answer | RowError], list[dict[str, Any]]]:
    """Answers or errors, and the journal's records."""
    answers = (by or decider()).decide(rows, [False] * len(rows), NOW)
    return list(answers), records(answers)


def test_an_event_is_answered_on_stored_and_brought_values() -> None:
    """Each input comes from where it belongs, in the manifest's order, and the answer names every entity."""
    (answer,), (record,) = ask(row())
    assert isinstance(answer, Answer)
    dumped = answer.dump()
    assert list(dumped["features"].items()) == [("recency", 12.0), ("spend", 80.0), ("hour", 12.0)]
    assert (dumped["card_id"], dumped["terminal_id"], dumped["stale"]) == (CARD, TERMINAL, False)
    assert (record["entity"], record["others"]) == (CARD, {"terminal_id": TERMINAL})
    assert record["features"] == dumped["features"]


def test_the_journal_has_the_rows_own_time() -> None:
    """What is joined later is the event, so its time is journalled, in UTC, not the moment of asking."""
    hour = timedelta(hours=1)
    _, records = ask(row(), row(time=(NOON - hour).astimezone()), row(features=GIVEN, time=None))
    assert [datetime.fromisoformat(r["time"]) for r in records] == [NOON, NOON - hour, NOW]


@pytest.mark.parametrize(("score", "risk"), [(0.29, "LOW"), (0.3, "MEDIUM"), (0.59, "MEDIUM"), (0.6, "HIGH")])
def test_the_risk_is_by_the_thresholds_reached(score: float, risk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score at a threshold has the higher risk."""
    by = decider()
    monkeypatch.setattr(by.served.scorer, "score_inputs", lambda z: np.full(len(z), score))
    (answer,), (record,) = ask(row(), by=by)
    assert isinstance(answer, Answer)
    assert (answer.risk, record["decision"], record["threshold"]) == (risk, risk, 0.6)


def test_alone_and_in_company_a_row_has_the_same_answer() -> None:
    """Neighbours, good, bad or bringing their features, move no bit of a score."""
    (alone,), _ = ask(row())
    batch, _ = ask(row(card_id="x"), row(), row(features=GIVEN), row(card_id=NEW, terminal_id=NEW), row())
    kinds = [type(r) for r in batch]
    assert kinds == [RowError, Answer, Answer, RowError, Answer]
    assert {r.probability for r in (batch[1], batch[4], alone) if isinstance(r, Answer)} == {alone.probability}


def test_values_younger_than_the_row_are_not_used() -> None:
    """A late row does not see what was computed after it: it is answered without, and flagged (rule 3)."""
    (answer,), _ = ask(row(time=NOW - timedelta(hours=1)))
    assert isinstance(answer, Answer)
    assert answer.features == {"recency": None, "spend": None, "hour": 12.0}
    assert answer.stale


def test_a_ttl_counts_from_the_rows_own_time() -> None:
    """A value that is fresh enough now is too old for a row that is later than its ttl."""
    readers = stores()
    readers[0].rows[3] = (20.0, NOW - timedelta(days=1, hours=13))
    early, late = ask(row(card_id=3, time=NOW + timedelta(hours=10)), row(card_id=3), by=decider(readers))[0]
    assert isinstance(early, Answer)
    assert isinstance(late, Answer)
    assert (early.features["recency"], late.features["recency"]) == (20.0, None)
    assert (early.stale, late.stale) == (False, True)


def test_one_unknown_entity_is_missing_two_are_not_found() -> None:
    """A new card at a known terminal is answered and flagged; nothing known at all is a 404; `reject` means 409."""
    (new, unknown), records = ask(row(card_id=NEW), row(card_id=NEW, terminal_id=NEW))
    assert isinstance(new, Answer)
    assert (new.stale, new.features["recency"], new.features["spend"]) == (True, None, 80.0)
    assert records[0]["state"] == "missing"
    assert isinstance(unknown, RowError)
    assert (unknown.status, unknown.detail) == (404, {"card_id": NEW})
    (rejected,), _ = ask(row(card_id=NEW), by=decider(stale="reject"))
    assert isinstance(rejected, RowError)
    assert rejected.status == 409


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"card_id": None}, "card_id"),
        ({"terminal_id": -1}, "terminal_id"),
        ({"terminal_id": True}, "terminal_id"),
        ({"terminal_id": 2**63}, "terminal_id"),
        ({"hour": None}, "hour"),
        ({"hour": "3"}, "hour"),
        ({"hour": float("nan")}, "hour"),
        ({"hour": -0.1}, "hour"),
        ({"hour": 24.1}, "hour"),
        ({"hour": 10**400}, "hour"),
        ({"time": None}, "time"),
        ({"time": NOON.replace(tzinfo=None)}, "time"),
        ({"time": NOW + timedelta(hours=25)}, "time"),
        ({"time": NOW - timedelta(hours=25)}, "time"),
        ({"features": {**GIVEN, "hour": 25.0}}, "features.hour"),
        ({"features": GIVEN, "time": NOW + timedelta(days=9)}, "time"),
        ({"features": {"recency": 1.0}}, "features.spend"),
    ],
)
def test_a_bad_row_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    """It gets its own 422, its neighbour is answered, and nothing of it is journalled (rule 7)."""
    (bad, good), records = ask(row(**changes), row())
    assert isinstance(bad, RowError)
    assert (bad.status, bad.detail) == (422, {"field": field})
    assert isinstance(good, Answer)
    assert [r["request_id"] for r in records] == [good.request_id]


def test_given_features_are_used_as_they_are() -> None:
    """A row that brings every input needs neither store nor time; null is missing."""
    readers = stores()
    readers[0].fails = True
    (given, asked), (record,) = ask(
        row(features={**GIVEN, "hour": None}, time=None, hour=None), row(), by=decider(readers)
    )
    assert isinstance(given, Answer)
    assert given.features == {**GIVEN, "hour": None}
    assert (record["source"], record["others"]) == ("request", {"terminal_id": TERMINAL})
    assert isinstance(asked, RowError)
    assert asked.status == 503


def test_request_values_are_numbers_and_hours() -> None:
    """A number is taken as it is, an hour from the row's time in UTC; bounds are inclusive and missing breaks none."""
    features = (
        RequestFeature(name="amount", minimum=0.0, maximum=100.0),
        RequestFeature(name="hour", kind="hour", minimum=0.0, maximum=24.0),
    )
    moments = np.array([0, 86_399_999_999, 86_400_000_000 + 5_400_000_000], dtype=np.int64)
    values = matrix(features, {"amount": np.array([0.0, 100.0, 7.5])}, moments)
    assert values[:, 0].tolist() == [0.0, 100.0, 7.5]
    assert values[:, 1].tolist() == pytest.approx([0.0, 24.0, 1.5])
    assert not outside(features, values).any()
    assert outside(features, np.array([[-0.1, 1.0], [np.nan, 25.0]])).tolist() == [[True, False], [False, True]]


def test_the_manifest_survives_its_json_and_an_old_one_keeps_its_hash() -> None:
    """What is new comes back as it was; manifests without it are written as they always were."""
    assert parse(manifest().dump()) == manifest()
    assert not {"others", "request", "time", "thresholds"} & set(json.loads(make_manifest().dump()))
    assert make_manifest().cuts == (0.5,)
    assert manifest().stored == ["recency", "spend"]


def test_risks_without_their_thresholds_are_no_manifest() -> None:
    """Three risks need two thresholds."""
    with pytest.raises(ManifestError, match="3 risks with 1 thresholds"):
        parse(manifest(thresholds=()).dump())


def test_a_shadow_scores_an_event_as_it_was_answered(tmp_path) -> None:
    """What the service passes on to a shadow's process is JSON: the row's time comes back as a time."""
    wire = Wire(FraudRequest)
    body = b'{"card_id": 1, "terminal_id": 7, "amount": 12, "time": "%s"}' % NOON.isoformat().encode()
    passed_on = orjson.loads(orjson.dumps({"rows": [wire.decode(body)]}, default=to_builtins))
    brought = RequestFeature(name="amount", minimum=0.0, maximum=24.0)
    renamed = (*manifest().features[:2], Feature(name="amount", fill=12.0, mean=12.0, scale=6.0))
    by, journal = decider(features=renamed, request=(brought,)), Journal(tmp_path)
    understudy = Understudy(by, journal)
    understudy.score(passed_on | {"ids": ["a"], "now": NOW.isoformat()})
    journal.close()
    [record] = scan(tmp_path)
    (answer,), _ = ask(row(amount=12.0), by=by)
    assert understudy.counts == {"scored": 1, "failed": 0}
    assert (record["request_id"], record["score"], record["time"]) == ("a", answer.probability, NOON.isoformat())


class Kinds(Stored):
    """Stands in for an entity's online store of one text."""

    def read(self, ids: Any, now: Any) -> FeatureRows:
        """The stored texts at each row's time."""
        words = {key: word for key, (word, _) in self.rows.items()}
        self.rows = {key: (0.0, at) for key, (_, at) in self.rows.items()}
        rows = super().read(ids, now)
        self.rows = {key: (words[key], at) for key, (_, at) in self.rows.items()}
        texts = np.array([words.get(i) for i in ids], dtype=object)
        texts[np.isnan(rows.values[:, 0])] = None
        return replace(rows, texts={self.names[0]: texts})


def test_texts_of_one_of_several_entities_are_coded_answered_and_journalled():
    """A terminal's kind beside a card's number and the row's hour: known, never seen, expired, and given."""
    kind = Feature(name="kind", fill=0.0, mean=0.0, scale=1.0, categories=("shop", None), rest=True)
    number = Feature(name="recency", fill=30.0, mean=40.0, scale=20.0)
    hour = manifest().features[-1]
    found = manifest(features=(number, kind, hour))
    rng = np.random.default_rng(0)
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(rng.normal(size=(200, 5)), rng.integers(0, 2, 200))
    scorer = Scorer(found, to_onnx(model, 5))
    kinds = {1: ("shop", NOW), 2: ("never seen", NOW), 3: ("shop", NOW - timedelta(days=9))}
    cards = Stored("recency", {CARD: (12.0, NOW)}, timedelta(days=2))
    reader = JoinedReader((cards, Kinds("kind", kinds, timedelta(days=2))), ["recency", "kind"])  # type: ignore[arg-type]
    by = Decider("champion", Release("v1", "1", found, scorer, reader))
    rows = [{"card_id": CARD, "terminal_id": t, "time": NOON, "hour": 12.0} for t in (1, 2, 3, NEW)]
    given = {"recency": 12.0, "kind": "never seen", "hour": 12.0}
    rows.append({"card_id": CARD, "terminal_id": 1, "features": given})
    rows.append({"card_id": CARD, "terminal_id": 1, "features": given | {"kind": 4}})
    results = by.decide(rows, [False] * len(rows), NOON)
    assert isinstance(results[-1], RowError)
    assert results[-1].detail == {"field": "features.kind"}
    written = [record["features"] for record in records(results)]
    assert [f["kind"] for f in written] == ["shop", "never seen", None, None, "never seen"]
    assert [f["hour"] for f in written] == [12.0] * 5
    expected = scorer.score(rows_to_raw(written, found)).tolist()
    assert [r.probability for r in results if isinstance(r, Answer)] == expected
    assert expected[1] == expected[4]
    assert len({expected[0], expected[1], expected[2]}) == 3
