"""A backtest as people read it: page and markdown, from the result that is kept as JSON."""

from collections.abc import Mapping
from typing import Any

from flows.steps.backtesting.recommendation import times
from flows.steps.pages import plots
from flows.steps.pages.page import (
    Badge,
    Block,
    Cell,
    Code,
    Event,
    Facts,
    Figure,
    Kind,
    Page,
    Section,
    Table,
    Text,
    Timeline,
)

METRIC, NAME = "brier_skill", "Brier skill"
KINDS: dict[str, Kind] = {"PROMOTE": "good", "HOLD": "warn", "REJECT": "bad"}
HEADERS = (
    "Policy",
    "Mean Brier skill",
    "Mean ROC AUC",
    "Trainings",
    "Promoted",
    "Training, CPU s",
    "Watching, CPU s",
)
METHOD = (
    "Every policy starts with the same first model and sees, at each moment, only what was known then: features of "
    "the rows' own time, labels only once they were mature, answers of the windows before. A training is the real "
    "one, with its export, evaluation and gates, and so are the drift verdict, its kind, cooldown, budget, breaker "
    "and quick fit; the use case's approval is taken as given. A new model answers from the moment it was trained "
    "at. A policy is billed for all of its own work, also where another one had done the same already.\n\n"
    "Not counted are the join of features, which was done once for all, and what a training writes to MLflow. A "
    "policy that asks and is held up cannot turn to a person, as the live system can. What the oracle does, no "
    "policy can: it knows the labels to come."
)


def page(title: str, result: Mapping[str, Any]) -> Page:
    """The page of a finished backtest."""
    found = result["recommendation"]
    chosen = found["policy"]
    label, kind = (f"Recommended: {chosen}", "good") if chosen else ("No recommendation", "warn")
    span = f"{_day(result['since'])} to {_day(result['until'])}"
    return Page(
        title=f"Retraining backtest: {title}",
        subtitle=f"{result['windows']} windows from {span}, snapshot {result['snapshot']}",
        lead=(Badge(label, "good" if kind == "good" else "warn", f"{_sentence(found['why'])} Nothing was changed."),),
        sections=(
            Section("Quality and compute", "policies", _compared(result)),
            Section("Quality over time", "time", _over_time(result)),
            Section("What each policy did", "steps", _done(result)),
            Section("How it was chosen", "rule", _rule(result)),
            Section("How it was replayed", "method", (Text(METHOD), Facts(_facts(result)), Code(result["command"]))),
        ),
        footer="A backtest recommends and changes nothing.",
    )


def _compared(result: Mapping[str, Any]) -> tuple[Block, ...]:
    found = result["recommendation"]
    names = [run["name"] for run in result["policies"]]
    costs = [run["training_s"] + run["watching_s"] for run in result["policies"]]
    means = [run["mean"][METRIC] for run in result["policies"]]
    figure = plots.trade_off(names, costs, means, found["policy"], metric=NAME)
    rows = tuple(_row(run) for run in [*result["policies"], result["oracle"]])
    alt = "Mean Brier skill of each policy against the CPU seconds that it spent"
    caption = "Brier skill: 1 minus the ratio to the base rate's Brier score. The first model's training is not billed."
    return (Table(HEADERS, rows, caption), Text(_headroom(result)), Figure(figure, alt))


def _row(run: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        run["name"],
        f"{run['mean'][METRIC]:.4f}",
        f"{run['mean']['roc_auc']:.4f}",
        run["trainings"],
        "–" if run["promoted"] is None else run["promoted"],
        f"{run['training_s']:.1f}",
        f"{run['watching_s']:.1f}",
    )


def _over_time(result: Mapping[str, Any]) -> tuple[Block, ...]:
    runs = [*result["policies"], result["oracle"]]
    times = [_day(step["moment"]) for step in result["policies"][0]["steps"]]
    lines = {run["name"]: [_value(step) for step in run["steps"]] for run in runs}
    figure = plots.policies_over_time(times, lines, metric=NAME)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (time, found[0]["rows"], *(_skill(step) for step in found), _noise(found[0]))
        for time, *found in zip(times, *(run["steps"] for run in runs), strict=True)
    )
    headers = ("Window from", "Rows", *(run["name"].capitalize() for run in runs), "Noise")
    caption = "Brier skill. Noise is half the width of the first policy's 95 % bootstrap interval."
    return (Figure(figure, "Brier skill of each policy in every window"), Table(headers, rows, caption))


def _value(step: Mapping[str, Any]) -> float:
    return float(step["quality"][METRIC]["value"]) if step["quality"] else float("nan")


def _skill(step: Mapping[str, Any]) -> str:
    return f"{_value(step):.3f}" if step["quality"] else "–"


def _noise(step: Mapping[str, Any]) -> str:
    q = step["quality"].get(METRIC)
    return f"{(q['high'] - q['low']) / 2:.3f}" if q else "–"


def _done(result: Mapping[str, Any]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for run in result["policies"]:
        events = tuple(
            Event(_day(step["moment"]), _title(step), _said(step), KINDS.get(step["outcome"], "info"))
            for step in run["steps"]
            if step["asked"]
        )
        said = f"{run['name'].capitalize()} {run['says']}."
        blocks += [Text(said), Timeline(events)] if events else [Text(f"{said} Nothing asked for a training.")]
    return tuple(blocks)


def _title(step: Mapping[str, Any]) -> str:
    if not step["fitted"]:
        return f"Not trained: {step['outcome']}"
    return f"Trained on {step['fitted']:,} rows: {step['outcome']}"


def _said(step: Mapping[str, Any]) -> str:
    return ". ".join(text.rstrip(".") for text in (f"Asked for by {step['asked']}", step["reason"]) if text) + "."


def _headroom(result: Mapping[str, Any]) -> str:
    """What the oracle has over the best policy, and what refused models that might have closed the gap."""
    top = max(run["mean"][METRIC] for run in result["policies"])
    refused = {
        step["moment"]: step["reason"].split(":")[0]
        for run in result["policies"]
        for step in run["steps"]
        if step["outcome"] in ("HOLD", "REJECT")
    }
    text = (
        f"The oracle reaches {result['oracle']['mean'][METRIC]:.4f}, {result['oracle']['mean'][METRIC] - top:.4f} more"
    )
    text += " than the best policy: no other timing of trainings can gain more."
    if refused:
        gates = ", ".join(sorted(set(refused.values())))
        text += (
            f" Of the models that were trained on the way, the gates refused those of {len(refused)} days ({gates})."
        )
    return text


def _rule(result: Mapping[str, Any]) -> tuple[Block, ...]:
    found = result["recommendation"]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            c["policy"],
            Badge("as good", "good") if c["as_good"] else Badge("worse", "bad"),
            interval(c["loss"]),
            interval(c["elsewhere"]),
            f"{c['seconds']:.1f}",
        )
        for c in found["compared"]
    )
    headers = ("Policy", "Verdict", "Loss on these windows", "Loss over windows like these", "CPU s")
    caption = (
        "First interval: entities drawn again. Second: windows taken as draws of many (Diebold and Mariano 1995, "
        "Harvey et al. 1997), which says whether another stretch of time might decide otherwise."
    )
    return (Text(f"Recommended is {found['rule']}."), *([Table(headers, rows, caption)] if rows else []))


def _facts(result: Mapping[str, Any]) -> tuple[tuple[str, Cell], ...]:
    cost = result["cost"]
    return (
        ("Decided every", result["step"]),
        (
            "Trainings",
            "a bounded search each" if result["search"] else "the recipe that the first model's search chose",
        ),
        ("A new model", "answers if the gates promote it" if result["gated"] else "always answers"),
        ("First model", f"{_day(result['since'])}, {cost['first_rows']:,} rows, {cost['first_s']:.1f} CPU seconds"),
        *((f"Refused before, {_day(at)}", why) for at, why in result["refused"].items()),
        ("Join of features", f"{cost['join_s']:.1f} CPU seconds"),
        (
            "This backtest",
            f"{cost['spent_s']:.1f} CPU seconds, {cost['wall_s']:.0f} s, {cost['kept']} pieces kept before",
        ),
    )


def as_markdown(title: str, result: Mapping[str, Any]) -> str:
    """Recommendation and table, for a Prefect artifact."""
    found = result["recommendation"]
    lines = [
        f"# {title}: retraining backtest",
        "",
        f"**{found['policy'] or 'No recommendation'}**. {_sentence(found['why'])}",
        "",
        f"| {' | '.join(HEADERS)} |",
        f"|---|{'---:|' * (len(HEADERS) - 1)}",
    ]
    for run in [*result["policies"], result["oracle"]]:
        lines.append(f"| {' | '.join(str(cell) for cell in _row(run))} |")
    return "\n".join([*lines, "", f"Recommended is {found['rule']}."])


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a terminal shows of a result."""
    found, width = result["recommendation"], max(len(run["name"]) for run in result["policies"])
    told = [
        f"{run['name']:<{width}}  Brier skill {run['mean'][METRIC]:.4f}, ROC AUC {run['mean']['roc_auc']:.4f}, "
        f"{times(run['trainings'])}, "
        f"{run['training_s'] + run['watching_s']:.1f} CPU s"
        for run in [*result["policies"], result["oracle"]]
    ]
    return {
        "use case": result["use_case"],
        "replayed": f"{result['windows']} windows, {_day(result['since'])} to {_day(result['until'])}",
        "policies": told,
        "recommended": found["policy"] or "nothing",
        "why": found["why"],
        "report": result["report"],
    }


def interval(found: Mapping[str, float]) -> str:
    """A loss with its bounds."""
    return f"{found['value']:.4f} ({found['low']:+.4f} to {found['high']:+.4f})"


def _day(moment: str) -> str:
    return moment[:10]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
