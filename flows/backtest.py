"""backtest: replay the prepared history under retraining policies; quality against compute, and a recommendation."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from threadpoolctl import threadpool_limits

from bentos.runtime.home import replace
from flows import servers, usecases
from flows.errors import BentoflowError, StoreError, WindowError
from flows.examples import known
from flows.settings import settings
from flows.steps.backtesting import outcome, policies, recommendation, trained
from flows.steps.backtesting import past as pasts
from flows.steps.backtesting.outcome import Options
from flows.steps.backtesting.past import Past
from flows.steps.backtesting.replay import Run, oracle, replay
from flows.steps.backtesting.trained import Costed, Trained, costed
from flows.steps.backtesting.work import Work
from flows.steps.data import cohorts
from flows.steps.gating import gates
from flows.steps.pages import backtest as pages
from flows.steps.pages import page
from flows.steps.training import arrays, dossier
from flows.steps.training.search import Trial
from flows.stores import backtests, features, lineage, locks, snapshots
from flows.usecases.spec import UseCase


class Bench:
    """The trainings and verdicts of one backtest, kept on disk as they are made, so that a stopped one goes on."""

    def __init__(self, past: Past, options: Options, draft: dict[str, Any], home: Path, *, began: float) -> None:
        self.past, self.options, self.draft = past, options, draft
        self.folder = backtests.folder(home, past.case.name)
        self.recipe: Trial | None = None
        self.began, self.kept = began, 0
        self._made: dict[str, tuple[str, Costed[Trained]]] = {}

    def train(self, moment: pd.Timestamp) -> Costed[Trained]:
        """The training as of a moment: made now, or kept from before if the same rows were trained on the same way."""
        name = str(moment.date())
        if name not in self._made:
            case, rows = self.past.case, pasts.examples(self.past, moment)
            recipe = None if self.options.search else self.recipe
            parts = [moment.isoformat(), backtests.declared(case), *map(backtests.rows_hash, rows), recipe]
            key = backtests.key("train", *parts)
            found = backtests.load(self.folder / "trainings" / key)
            self.kept += found is not None
            if found is None:
                found = fit(case, moment, rows, dossier.draft(case, "backtest", self._facts(moment)), recipe)
                backtests.save(self.folder / "trainings" / key, found)
                self.tell(f"trained as of {name} on {found.value.rows:,} rows, {found.seconds:.1f} CPU seconds")
            self._made[name] = key, found
        return self._made[name][1]

    def judge(self, made: Trained, champion: Trained | None) -> Costed[gates.Verdict]:
        """What the gates say of a training beside another one, which both were made here."""
        keys = [self._made[one.name][0] if one else "" for one in (made, champion)]
        place = self.folder / "verdicts" / f"{backtests.key('judge', *keys)}.json"
        found = backtests.load_verdict(place)
        self.kept += found is not None
        if found is None:
            rows = pasts.examples(self.past, made.moment)
            found = costed(lambda: trained.judge(self.past.case, made, champion, rows))
            backtests.save_verdict(place, found)
            beside = f" beside {champion.name}" if champion else ""
            self.tell(f"judged {made.name}{beside}: {found.value.verdict}")
        return found

    def tell(self, text: str) -> None:
        """Progress: to the terminal, and to the log of the flow run."""
        get_run_logger().info(text)
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def _facts(self, moment: pd.Timestamp) -> dict[str, Any]:
        return {**self.draft, "as_of": moment.isoformat()}


@task(cache_policy=NO_CACHE)
def assemble(case: UseCase, snapshot: str, until: pd.Timestamp, step: str, home: Path) -> Past:
    """Every row with a known label, each joined with the features of its own time."""
    events = snapshots.read(home, case.name, snapshot)
    store = features.open_store(home)
    joined = features.point_in_time(store, pasts.labelled(case, events, until), case.feature_service)
    names, categorical = features.input_names(store, case), features.categorical_names(store, case)
    return Past(case=case, rows=arrays.table(case, joined, names, categorical), until=until, step=step)


@task(cache_policy=NO_CACHE)
def fit(case: UseCase, moment: pd.Timestamp, rows: Any, draft: Any, recipe: Trial | None) -> Costed[Trained]:
    """One training, with the CPU seconds that it took."""
    return costed(lambda: trained.train(case, moment, rows, draft, recipe))


@task(cache_policy=NO_CACHE)
def follow(policy: policies.Policy, work: Work, moments: Sequence[pd.Timestamp], first: Trained, gated: bool) -> Run:
    """The replay of one policy."""
    return replay(policy, work, moments, first, gated=gated)


@flow(name="backtest")
@servers.named
def backtest(
    use_case: str = "churn",
    since: datetime | None = None,
    until: datetime | None = None,
    step_days: int | None = None,
    search: bool = True,
    gated: bool = True,
) -> dict[str, Any]:
    """Replay what is prepared, between `since` and `until`, under each retraining policy, and recommend one.

    Every training searches, as a real one does; without `search` it takes the recipe that the first one chose. Without
    `gated` every new model answers. Finished trainings are kept below the home: a stopped backtest goes on from them.
    Reads the prepared data alone; registry, releases, journal and history stay as they are, and no event is emitted.
    """
    case, home = usecases.load(use_case), settings().home
    snapshot, end = known(case, until, home)
    start = cohorts.utc(pd.Timestamp(since)) if since else None
    if start is not None and start >= end:
        raise WindowError(
            f"nothing is known of {use_case} from {start:%Y-%m-%d} to {end:%Y-%m-%d}: give an earlier since"
        )
    options = Options(since=start, step_days=step_days, search=search, gated=gated)
    with locks.held(home, f"backtest-{use_case}") as alone:
        if not alone:
            raise StoreError(f"another backtest of {use_case} is running below {home}: wait for it to end")
        with threadpool_limits(1):
            result = _backtest(case, snapshot, end, options, home)
    create_markdown_artifact(key=f"{use_case}-backtest", markdown=pages.as_markdown(case.title, result))
    return result


def _backtest(case: UseCase, snapshot: str, until: pd.Timestamp, options: Options, home: Path) -> dict[str, Any]:
    began, started = time.process_time(), time.monotonic()
    with locks.held(home, f"data-{case.name}", wait=True):
        step = pasts.step_of(case, options.step_days)
        joined = costed(lambda: assemble(case, snapshot, until, step, home))
    past = joined.value
    draft = {"snapshot": snapshot, "commit": lineage.commit(), "lock": lineage.lock_hash()}
    bench = Bench(past, options, draft, home, began=started)
    work = Work(past, bench.train, bench.judge)
    try:
        moments, refused = _begin(bench, work, pasts.moments(past, options.since))
        runs, best = _replayed(bench, work, moments)
    except BaseException as error:
        if not isinstance(error, Exception):
            bench.tell(f"stopped: what was trained is kept in {bench.folder}; run it again and it goes on")
        raise
    if not any(step.quality for step in best.steps):
        raise StoreError(f"none of {len(moments)} windows of {case.name} has enough rows of both labels to measure")
    found = recommendation.recommend(work, runs, moments)
    cost = {
        "join_s": joined.seconds,
        "first_s": bench.train(moments[0]).seconds,
        "first_rows": bench.train(moments[0]).value.rows,
        "spent_s": time.process_time() - began,
        "wall_s": time.monotonic() - started,
        "kept": bench.kept,
    }
    result = outcome.replayed(past, options, moments) | {
        "snapshot": snapshot,
        "refused": refused,
        "policies": [outcome.facts(run) for run in runs],
        "oracle": outcome.facts(best),
        "recommendation": asdict(found),
        "cost": cost,
    }
    return _keep(case, result, home)


def _begin(bench: Bench, work: Work, moments: list[pd.Timestamp]) -> tuple[list[pd.Timestamp], dict[str, str]]:
    """The moments from the first one on whose model the gates promote, and why earlier ones were refused."""
    refused: dict[str, str] = {}
    if len(moments) < 2:
        raise StoreError(
            f"{len(moments)} moments of {bench.past.case.name} until {bench.past.until.date()} have a model to train "
            "and labels of what came next; 2 are needed. Prepare more history, or ask for a longer stretch"
        )
    counts = [len(pasts.answered(bench.past, m).y) for m in moments]
    searching = "each" if bench.options.search else "at the first one"
    bench.tell(
        f"{len(moments)} windows from {moments[0].date()} to {moments[-1].date()}, {min(counts):,} to {max(counts):,} "
        f"rows each: at most {len(moments)} trainings, with a search {searching}"
    )
    for at, moment in enumerate(moments[:-1]):
        first = bench.train(moment)
        verdict = work.judged(first.value, None).value
        if verdict.verdict == "PROMOTE" or not bench.options.gated:
            bench.recipe = first.value.recipe
            return moments[at:], refused
        refused[moment.isoformat()] = verdict.reasons[0]
    raise BentoflowError(
        f"no first model of {bench.past.case.name} passed the gates at any of {len(moments) - 1} moments; at the last "
        f"one: {refused[moments[-2].isoformat()]}. Correct the gates, or give --no-gates"
    )


def _replayed(bench: Bench, work: Work, moments: list[pd.Timestamp]) -> tuple[list[Run], Run]:
    """Every policy's run and the oracle's."""
    days = float(np.median(np.diff([m.value for m in moments]))) / 86_400e9
    chosen = policies.choices(moments, days)
    second = bench.train(moments[1])
    left = max(0, len(moments) - 2)
    each = second.seconds + work.judged(second.value, bench.train(moments[0]).value).seconds
    bench.tell(
        f"{len(chosen)} policies and an oracle over {len(moments)} windows share at most {left} further trainings: "
        f"about {left * each:.0f} CPU seconds if none is kept from before"
    )
    runs = []
    for policy in chosen:
        run = follow(policy, work, moments, bench.train(moments[0]).value, bench.options.gated)
        bench.tell(f"{policy.name}: {recommendation.times(run.trainings)}, {run.seconds:.1f} CPU seconds")
        runs.append(run)
    return runs, oracle(work, moments)


def _keep(case: UseCase, result: dict[str, Any], home: Path) -> dict[str, Any]:
    """The result as JSON and as a page, named by what it follows from."""
    settled = {name: result[name] for name in ("snapshot", "since", "until", "step", "search", "gated")}
    name = backtests.key(settled, backtests.declared(case, ("source", "contract", "title")))
    html = home / "reports" / case.name / f"backtest-{result['until'][:10]}-{name[:8]}.html"
    result = {**result, "report": str(html), "result": str(backtests.folder(home, case.name) / f"{name}.json")}
    replace(html, page.render(pages.page(case.title, result)).encode())
    backtests.save_result(home, case.name, name, result)
    return result


if __name__ == "__main__":
    print(backtest()["recommendation"])
