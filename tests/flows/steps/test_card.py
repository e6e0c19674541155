from dataclasses import replace
from typing import Any

from flows.steps.gating import gates
from flows.steps.training.card import model_card
from flows.steps.training.metrics import Importance, Interval
from tests.flows.steps.test_gates import FAULTS, HEALTHY, RULES

SLICE = {
    "slice": "buys [1, 2)",
    "rows": 1234,
    "base_rate": 0.8,
    "brier": 0.1,
    "roc_auc": 0.7,
    "roc_auc_low": 0.65,
    "roc_auc_high": 0.75,
    "precision": 0.9,
    "recall": None,
    "positive_rate": 0.5,
    "judged": True,
}


def card(**changes: Any) -> str:
    given: dict[str, Any] = {
        "title": "Customer churn",
        "use_case": "churn",
        "verdict": gates.judge(HEALTHY, RULES),
        "intervals": {"roc_auc": Interval(0.775, 0.768, 0.782)},
        "dummy": {"roc_auc": 0.5},
        "slices": [SLICE, SLICE | {"slice": "few|rows", "judged": False, "roc_auc": None}],
        "importance": [Importance("recency_days", 0.12, 0.01)],
        "facts": {"snapshot": "sha256:abc", "test rows": "23570"},
        "reproduce": "bentoflow reproduce 3",
    }
    return model_card(**(given | changes))


def test_card_answers_what_a_reader_asks() -> None:
    """Use, data, quality with intervals beside the dummy, slices, gates, importance, limits, and how to repeat it."""
    text = card()
    for heading in (
        "Intended use",
        "Data",
        "Quality on the held-out cut-off",
        "Slices",
        "Gates",
        "Importance",
        "Limits",
        "Reproduce",
    ):
        assert f"\n## {heading}\n" in text
    assert "| roc_auc | 0.7750 | 0.7680 to 0.7820 | 0.5000 |" in text
    assert "| snapshot | sha256:abc |" in text
    assert "| buys [1, 2) | 1,234 | 0.8000 | 0.7000 | 0.6500 to 0.7500 | 0.9000 | – | yes |" in text
    assert "| recency_days | 0.1200 | 0.0100 |" in text
    assert "**PROMOTE**: 20 of 20 gates passed." in text
    assert "```\nbentoflow reproduce 3\n```" in text


def test_card_names_its_own_limits() -> None:
    """Thin and weak slices are listed under the limits without being asked for, next to the given ones."""
    text = card(limits=["Only customers of 1997."])
    assert "- Only customers of 1997." in text
    assert "- Too few rows to judge: few\\|rows." in text
    assert "- Weakest slice: buys [1, 2) with ROC AUC 0.7000." in text


def test_rejected_card_says_why_even_without_measurements() -> None:
    """A model whose scores are NaN has a card too: the verdict, its reasons, and no figures."""
    verdict = gates.judge(FAULTS["score_sanity"], RULES)
    text = card(verdict=verdict, intervals={}, slices=[], importance=[])
    assert text.startswith("# Customer churn\n\n**REJECT**\n- score_sanity: 1 scores are not within 0..1")
    assert "Nothing could be measured" in text
    assert "do not use this version" in text


def test_tables_keep_their_columns() -> None:
    """Bars and line breaks in values do not break a table."""
    text = card(facts={"choice": "a | b\nc"}, verdict=replace(gates.judge(HEALTHY, RULES), reasons=("x\ny",)))
    assert "| choice | a \\| b c |" in text
    assert "- x y" in text
