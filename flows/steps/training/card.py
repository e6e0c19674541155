"""The model card: what a version is for, what it was measured on, how good it is and why it was let through."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.steps.gating.gates import Verdict, as_markdown
from flows.steps.training.metrics import Importance, Interval

READ_AS = {
    "roc_auc": "share of (1, 0) pairs in the right order",
    "average_precision": "precision averaged over recall",
    "accuracy": "share answered rightly",
    "precision": "share of the answers 1 that are right",
    "recall": "share of the 1 that are found",
    "f1": "harmonic mean of precision and recall",
    "brier": "mean squared error of the score, lower is better",
    "brier_skill": "1 - brier / brier of the base rate",
    "calibration_error": "mean gap of score and outcome, lower is better",
}


def model_card(
    *,
    title: str,
    use_case: str,
    verdict: Verdict,
    intervals: Mapping[str, Interval],
    dummy: Mapping[str, float],
    slices: Sequence[Mapping[str, Any]],
    importance: Sequence[Importance],
    facts: Mapping[str, str],
    reproduce: str,
    intended_use: str = "",
    limits: Sequence[str] = (),
    confidence: float = 0.95,
) -> str:
    """The card as markdown, after Mitchell et al. 2019.

    `facts` are shown as they come: snapshot, rows, cut-offs, estimator. `slices` are rows of `metrics.slice_table`;
    `reproduce` is the command that trains the version again. Without `intervals` nothing could be measured.
    """
    use = intended_use or (
        f"Scores of the use case `{use_case}`, for the entities and the horizon that it declares. Not for decisions "
        "about people outside the population that the data below describes."
    )
    parts = [
        f"# {title}",
        f"**{verdict.verdict}**" + "".join(f"\n- {_cell(reason)}" for reason in verdict.reasons),
        "## Intended use",
        use,
        "## Data",
        _table(("fact", "value"), [(key, value) for key, value in facts.items()]),
        f"## Quality on the held-out cut-off\n\nValues with {confidence:.0%} bootstrap intervals; the dummy answers "
        "the training base rate to everybody.",
        _quality(intervals, dummy),
        "## Slices",
        _slices(slices),
        "## Gates",
        as_markdown(verdict),
        "## Importance",
        _importance(importance),
        "## Limits",
        "\n".join(f"- {_cell(limit)}" for limit in (*limits, *_found_limits(slices, intervals))),
        "## Reproduce",
        f"```\n{reproduce}\n```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _quality(intervals: Mapping[str, Interval], dummy: Mapping[str, float]) -> str:
    if not intervals:
        return "Nothing could be measured: see the gates."
    return _table(
        ("metric", "value", "interval", "dummy", "read as"),
        [
            (name, f"{i.value:.4f}", f"{i.low:.4f} to {i.high:.4f}", _number(dummy.get(name)), READ_AS.get(name, ""))
            for name, i in intervals.items()
        ],
    )


def _slices(slices: Sequence[Mapping[str, Any]]) -> str:
    if not slices:
        return "No slices were measured."
    return _table(
        ("slice", "rows", "base rate", "ROC AUC", "interval", "precision", "recall", "judged"),
        [
            (
                row["slice"],
                f"{row['rows']:,}",
                _number(row["base_rate"]),
                _number(row["roc_auc"]),
                "–" if row["roc_auc"] is None else f"{row['roc_auc_low']:.4f} to {row['roc_auc_high']:.4f}",
                _number(row["precision"]),
                _number(row["recall"]),
                "yes" if row["judged"] else "too few rows",
            )
            for row in slices
        ],
    )


def _importance(items: Sequence[Importance]) -> str:
    if not items:
        return "No importance was measured."
    return "Drop of ROC AUC when the column is shuffled.\n\n" + _table(
        ("column", "drop", "sd"), [(item.name, f"{item.drop:.4f}", f"{item.sd:.4f}") for item in items]
    )


def _found_limits(slices: Sequence[Mapping[str, Any]], intervals: Mapping[str, Interval]) -> list[str]:
    """What the measurements themselves say about where not to trust the model."""
    found = ["Quality was measured on one past cut-off; what changed since then is not in it."]
    thin = [str(row["slice"]) for row in slices if not row["judged"]]
    if thin:
        found.append(f"Too few rows to judge: {', '.join(thin)}.")
    ranked = [row for row in slices if row["judged"] and row["roc_auc"] is not None]
    if ranked:
        worst = min(ranked, key=lambda row: float(row["roc_auc"]))
        found.append(f"Weakest slice: {worst['slice']} with ROC AUC {worst['roc_auc']:.4f}.")
    if not intervals:
        found.append("The scores could not be measured; do not use this version.")
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
