"""The Grafana dashboards as code: service, model, drift, business. Run it to write `grafana/dashboards/*.json`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "bentoflow"}
CASE = 'use_case=~"$use_case"'
WIDTH, HEIGHT, ROW = 12, 8, 24  # of a panel, in Grafana's 24 columns

Kind = Literal["timeseries", "stat", "table", "heatmap", "state-timeline"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: queries in PromQL with what each line is called, and the unit of its axis."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class Board:
    """One dashboard: whom it is for, and its panels in reading order."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def quantile(share: int) -> str:
    """The recorded latency at a percentile."""
    return f"bentoflow:latency_seconds:p{share}_5m{{{CASE}}}"


SERVICE = Board(
    name="service",
    title="Bentoflow: service",
    panels=(
        Panel(title="Requests", queries=((f"bentoflow:requests:rate5m{{{CASE}}}", "{{use_case}}"),), unit="reqps"),
        Panel(
            title="Latency",
            queries=tuple((quantile(p), f"p{p} {{{{use_case}}}}") for p in (50, 95, 99)),
            unit="s",
            told="Of requests to prediction routes; the alert is p95 over 100 ms for ten minutes.",
        ),
        Panel(
            title="Rows without an answer, by status",
            queries=((f"bentoflow:errors:rate5m{{{CASE}}}", "{{use_case}} {{status}}"),),
            unit="ops",
            told="4xx: what the sender got wrong. 5xx: the service's own.",
        ),
        Panel(
            title="Rows a batch",
            queries=(
                (
                    f"sum by (use_case) (rate(bentoflow_batch_rows_sum{{{CASE}}}[5m])) "
                    f"/ sum by (use_case) (rate(bentoflow_batch_rows_count{{{CASE}}}[5m]))",
                    "{{use_case}}",
                ),
            ),
            told="Grows with load: requests that wait together are answered together.",
        ),
        Panel(
            title="Feature cache: share of rows that the online store was not asked for",
            queries=(
                (
                    f'sum by (use_case, entity) (rate(bentoflow_feature_lookups_total{{{CASE}, outcome="hit"}}[5m])) '
                    f"/ sum by (use_case, entity) (rate(bentoflow_feature_lookups_total{{{CASE}}}[5m]))",
                    "{{use_case}} {{entity}}",
                ),
            ),
            unit="percentunit",
            told="Empty while the cache is off (BENTOFLOW_FEATURE_CACHE_S).",
        ),
        Panel(
            title="Releases in charge",
            queries=((f"max by (use_case, arm, release, model_version) (bentoflow_release_info{{{CASE}}})", ""),),
            kind="table",
        ),
        Panel(
            title="Rollout problem",
            queries=((f"max by (use_case) (bentoflow_rollout_problem{{{CASE}}})", "{{use_case}}"),),
            kind="state-timeline",
        ),
        Panel(title="Scraped", queries=(('up{job=~"bentoflow-.*"}', "{{job}} {{instance}}"),), kind="state-timeline"),
    ),
)

MODEL = Board(
    name="model",
    title="Bentoflow: model",
    panels=(
        Panel(
            title="Champion", queries=((f"bentoflow_champion_info{{{CASE}}}", "{{version}} {{release}}"),), kind="table"
        ),
        Panel(
            title="Age of the champion's training data",
            queries=((f"bentoflow:champion_age_seconds{{{CASE}}}", "{{use_case}}"),),
            unit="s",
            kind="stat",
        ),
        Panel(
            title="Live quality of the newest month, measured on labels",
            queries=((f"bentoflow_live_quality{{{CASE}}}", "{{use_case}} {{metric}} {{bound}}"),),
            told="With the bounds of its interval; labels come as late as the use case's horizon.",
        ),
        Panel(
            title="Scores answered",
            queries=((f"sum by (le) (rate(bentoflow_score_bucket{{{CASE}}}[5m]))", "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            title="Candidates by verdict",
            queries=((f"bentoflow_candidates_total{{{CASE}}}", "{{use_case}} {{verdict}}"),),
        ),
        Panel(title="Releases", queries=((f"bentoflow_releases_total{{{CASE}}}", "{{use_case}} {{action}}"),)),
        Panel(
            title="Canary: share of rows that failed, by arm",
            queries=(
                (
                    f'sum by (use_case, arm) (rate(bentoflow_arm_rows_total{{{CASE}, outcome="failed"}}[5m])) '
                    f"/ sum by (use_case, arm) (rate(bentoflow_arm_rows_total{{{CASE}}}[5m]))",
                    "{{use_case}} {{arm}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Canary: p95 of an arm's part of a batch",
            queries=(
                (
                    "histogram_quantile(0.95, sum by (use_case, arm, le) "
                    f"(rate(bentoflow_arm_seconds_bucket{{{CASE}}}[5m])))",
                    "{{use_case}} {{arm}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            title="Shadow: rows by what became of them",
            queries=(
                (
                    f"sum by (use_case, arm, outcome) (rate(bentoflow_shadow_rows_total{{{CASE}}}[5m]))",
                    "{{use_case}} {{arm}} {{outcome}}",
                ),
            ),
            unit="ops",
        ),
    ),
)

DRIFT = Board(
    name="drift",
    title="Bentoflow: drift and retraining",
    panels=(
        Panel(
            title="Kind of drift",
            queries=((f"bentoflow_drift_kind{{{CASE}}}", "{{use_case}} {{kind}}"),),
            kind="state-timeline",
        ),
        Panel(
            title="Since the last check",
            queries=((f"bentoflow:drift_check_age_seconds{{{CASE}}}", "{{use_case}}"),),
            unit="s",
            kind="stat",
        ),
        Panel(
            title="Answers in the newest window", queries=((f"bentoflow_drift_window_rows{{{CASE}}}", "{{use_case}}"),)
        ),
        Panel(
            title="What stops automatic trainings",
            queries=((f"bentoflow_retraining_stopped{{{CASE}}}", "{{use_case}} {{by}}"),),
            kind="state-timeline",
        ),
        Panel(
            title="Waits for a person, or for a run that never came",
            queries=(
                (f"bentoflow_question_open{{{CASE}}}", "{{use_case}} question"),
                (f"bentoflow_event_unfollowed{{{CASE}}}", "{{use_case}} unfollowed event"),
            ),
            kind="state-timeline",
        ),
        Panel(
            title="Age of the features",
            queries=((f"bentoflow:features_age_seconds{{{CASE}}}", "{{use_case}}"),),
            unit="s",
            kind="stat",
        ),
    ),
)

BUSINESS = Board(
    name="business",
    title="Bentoflow: business",
    panels=(
        Panel(
            title="Answers in a day",
            queries=((f"sum by (use_case) (increase(bentoflow_predictions_total{{{CASE}}}[1d]))", "{{use_case}}"),),
            kind="stat",
        ),
        Panel(
            title="Decisions, share by risk",
            queries=(
                (
                    f"sum by (use_case, risk) (rate(bentoflow_predictions_total{{{CASE}}}[1h])) "
                    f"/ ignoring (risk) group_left sum by (use_case) (rate(bentoflow_predictions_total{{{CASE}}}[1h]))",
                    "{{use_case}} {{risk}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Mean probability answered",
            queries=(
                (
                    f"sum by (use_case) (rate(bentoflow_score_sum{{{CASE}}}[1h])) "
                    f"/ sum by (use_case) (rate(bentoflow_score_count{{{CASE}}}[1h]))",
                    "{{use_case}}",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Labels of the newest month",
            queries=((f"bentoflow_live_labels{{{CASE}}}", "{{use_case}}"),),
            kind="stat",
        ),
        Panel(
            title="Journal",
            queries=((f"bentoflow_journal_bytes{{{CASE}}}", "{{use_case}}"),),
            unit="bytes",
        ),
        Panel(title="Segments of the journal", queries=((f"bentoflow_journal_segments{{{CASE}}}", "{{use_case}}"),)),
        Panel(
            title="Oldest segment that the bucket has not",
            queries=((f"bentoflow_journal_unshipped_seconds{{{CASE}}}", "{{use_case}}"),),
            unit="s",
        ),
    ),
)

BOARDS = (SERVICE, MODEL, DRIFT, BUSINESS)


def queries(board: Board) -> Iterator[str]:
    """Every query of a dashboard, for all use cases."""
    for panel in board.panels:
        for query, _ in panel.queries:
            yield query.replace("$use_case", ".*")


def as_json(board: Board) -> str:
    """The dashboard as Grafana provisions it."""
    return json.dumps(
        {
            "uid": f"bentoflow-{board.name}",
            "title": board.title,
            "tags": ["bentoflow"],
            "timezone": "utc",
            "schemaVersion": 39,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": [_use_case()]},
            "panels": [_panel(i, panel) for i, panel in enumerate(board.panels)],
        },
        indent=1,
    )


def _use_case() -> dict[str, Any]:
    return {
        "name": "use_case",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(bentoflow_state_readable, use_case)", "refId": "use_case"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    """A panel, two beside each other; a table or a heatmap asks in the form that it is drawn from."""
    extra: dict[str, Any] = {"format": panel.kind if panel.kind in ("table", "heatmap") else "time_series"}
    if panel.kind == "table":
        extra["instant"] = True
    return {
        "id": place + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.told,
        "datasource": SOURCE,
        "gridPos": {
            "x": place * WIDTH % ROW,
            "y": place * WIDTH // ROW * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend or "__auto", **extra}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(as_json(board) + "\n")


if __name__ == "__main__":
    main()
