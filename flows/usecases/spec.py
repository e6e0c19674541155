"""What a use case declares: source, contract, features, label, estimators, gates and drift rules."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from bentos.runtime.monitoring.rules import DriftRules as DriftRules
from bentos.runtime.scoring.request import RequestFeature as RequestFeature
from flows.usecases.retraining import Retraining as Retraining

Build = Callable[[pd.DataFrame, pd.Timestamp], pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class PathSource:
    """A table in a file: a path, any fsspec URL (`s3://…`), or `package://<module>/<file>` inside an installed wheel.

    `text` is white-space separated without a header. `${NAME}` in the URL is read from the environment.
    """

    url: str
    format: Literal["parquet", "csv", "text"]
    names: tuple[str, ...] = ()
    skip_rows: int = 0
    time_format: str | None = None
    storage_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """The rows of a query through SQLAlchemy. `${NAME}` in the URL is read from the environment."""

    url: str
    query: str


@dataclass(frozen=True, kw_only=True)
class HttpSource:
    """The list of objects that a JSON endpoint answers with.

    `records` is the dotted path to the list ("" when the answer is the list); `next` the dotted path to the next
    page's URL, if the endpoint pages. `${NAME}` in the URL or a header is read from the environment.
    """

    url: str
    records: str = ""
    next: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    time_format: str | None = None


@dataclass(frozen=True, kw_only=True)
class SimulatedSource:
    """Rows that a pure function makes up from `settings`, the same ones at every call; nothing of them happened."""

    simulate: Callable[..., pd.DataFrame]
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def url(self) -> str:
        """What messages call it."""
        return f"simulated://{self.simulate.__name__}"


Source = PathSource | SqlSource | HttpSource | SimulatedSource


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a contract; bounds are inclusive. A `time` column is parsed to UTC.

    A value that only becomes known `delay_days` after its row's time is missing from snapshots until then.
    """

    name: str
    kind: Literal["int", "float", "str", "time"]
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str | int, ...] = ()
    pii: Literal["no", "mask", "drop"] = "no"
    delay_days: int = 0


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Schema and ranges of a table.

    `unique` names a key: later rows that repeat it are bad. Exact copies of a whole row are counted, and stop the
    run above `max_duplicate_share` (a delivery loaded twice). Bad rows are quarantined and stop the run above
    `max_bad_share`.
    """

    columns: tuple[Column, ...]
    min_rows: int = 1
    unique: tuple[str, ...] = ()
    max_bad_share: float = 0.01
    max_duplicate_share: float = 0.02
    max_shrink: float = 0.2  # of the source's good rows since the last prepare: more looks like a delivery cut off


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Groups of test rows by a feature: half-open bins `[edge, next edge)`, the last one open-ended.

    Of a categorical feature the rows with each of `values`.
    """

    feature: str
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """Thresholds of the gates. A share is 0 to 1, a skill 1 minus the ratio to the base rate's Brier score."""

    min_roc_auc: float
    min_average_precision: float
    min_precision: float
    min_recall: float
    min_brier_skill: float = 0.0
    max_calibration_error: float = 0.05
    max_single_feature_auc: float = 0.97  # above this one column tells the label by itself: a leak
    max_roc_auc: float = 0.98  # too good to be true for behaviour that is not determined by the past
    min_gain: float = 0.002  # of Brier skill over the champion on the same rows
    max_loss: float = 0.01  # of Brier skill against the champion: the interval must exclude more
    min_slice_rows: int = 200
    min_slice_auc: float = 0.55
    max_slice_loss: float = 0.05  # of ROC AUC against the champion in any slice
    max_group_gap: float = 0.2  # of positive rate between groups of the sensitive column
    max_latency_us: float = 5_000.0  # per single row through the exported model
    max_parity: float = 1e-5  # largest difference of exported and fitted scores
    max_test_age_days: int = 200  # from the test cut-off to the day of training
    confidence: float = 0.95
    bootstrap: int = 500


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of one entity: `build(events, as_of)` as `UseCase.build_features` is described."""

    entity: str
    build: Build


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What errors cost, all in the unit of the feature `miss`, whose value a missed positive costs.

    `alarms` are the fixed sums of an answer with each risk above the lowest, rising like the risks; the last one is
    that of the decision which precision and recall are measured at.
    """

    miss: str
    alarms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """Everything that the generic flows need to know; behaviour is a few pure functions.

    `build_features(events, as_of)` returns one row per entity known before `as_of`, columns entity then features,
    from events strictly before `as_of`; `further` has the same for further entities of an event.

    With `build_labels` a row is an entity at a cut-off of the grid: `build_labels(events, entities, cutoff)` returns
    0/1 per entity (int64, indexed like `entities`) from events in `[cutoff, cutoff + horizon_days)`. Without it every
    event is a row at its own time, labelled by the event's column `label`, which is known `horizon_days` later; models
    are trained on `train_days` of rows and tested on the `test_days` of rows whose labels matured last.

    A feature is a number, or a category where its field in Feast is a String: that type alone decides. `request` are
    numbers that a row brings itself. The threshold is the most accurate one, or the one that costs least
    by `costs`; `risks` rise, and there is one threshold between each two.
    `clock` is "wall", or "data" for a finished log, whose now is the day up to which it has been prepared.
    `stale` says what happens to an answer whose features are missing or older than their ttl: `reject` it, fill in
    the training medians (`default`), or do so and `flag` it.
    """

    name: str
    title: str
    source: Source
    contract: Contract
    entity: str
    time: str
    clock: Literal["wall", "data"]
    feature_service: str
    build_features: Build
    further: tuple[FeatureTable, ...] = ()
    request: tuple[RequestFeature, ...] = ()
    build_labels: Callable[[pd.DataFrame, pd.Series, pd.Timestamp], pd.Series] | None = None
    label: str
    horizon_days: int
    first_cutoff: str
    grid: str = "MS"  # pandas frequency of feature rows and of cut-offs
    train_days: int = 28
    test_days: int = 7
    log_features: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ("logistic_regression", "random_forest", "hist_gradient_boosting")  # simplest first
    trials: int = 12
    max_search_rows: int = 12_000
    max_categories: int = 50  # inputs that one categorical feature may become, the one of all rarer values included
    costs: Costs | None = None
    gates: GateRules = field(
        default_factory=lambda: GateRules(min_roc_auc=0.7, min_average_precision=0.5, min_precision=0.5, min_recall=0.5)
    )
    drift: DriftRules = field(default_factory=DriftRules)
    retraining: Retraining = field(default_factory=Retraining)
    slices: tuple[Slice, ...] = ()
    sensitive: str | None = None
    stale: Literal["reject", "default", "flag"] = "flag"
    risks: tuple[str, ...] = ("Low", "High")
    seed: int = 7

    @property
    def tables(self) -> tuple[FeatureTable, ...]:
        """The feature tables of every entity, the main one's first."""
        return (FeatureTable(entity=self.entity, build=self.build_features), *self.further)

    @property
    def keys(self) -> tuple[str, ...]:
        """The join keys of every entity, the main one first."""
        return tuple(table.entity for table in self.tables)

    @property
    def by_event(self) -> bool:
        """Whether every event is a row at its own time."""
        return self.build_labels is None
