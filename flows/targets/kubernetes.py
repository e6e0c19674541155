"""The kubernetes target: a release's image in the Deployment of an overlay, and back.

It comes up as one pod beside the Deployment, is asked there, and given a share of the route where a canary is wanted.
Then the Deployment is rolled over, which may fail: so before the commit. After it nothing but the route is left to do.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from flows.errors import ReleaseError
from flows.settings import Settings
from flows.steps.rollouts import workload
from flows.steps.rollouts.workload import Deployed, Object
from flows.stores import cluster, images
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import golden, local, trial
from flows.walk import Plan

ROLLOUT_S = 900.0  # for all pods, one after the other; the Deployment itself gives up after 300 s without progress


def objects(chosen: Settings, use_case: str) -> list[Object]:
    """The use case's objects in the overlay of the settings; ReleaseError if there is none."""
    if not chosen.kubernetes_overlay:
        raise ReleaseError(
            "BENTOFLOW_KUBERNETES_OVERLAY is not set: name the folder of the kustomization that the cluster is given, "
            "such as infra/kubernetes/overlays/production"
        )
    with _about(chosen):
        return workload.own(cluster.rendered(Path(chosen.kubernetes_overlay)), use_case)


def current(stable: list[Object]) -> Deployed | None:
    """What the cluster runs now; None before the first release."""
    found = cluster.find(workload.deployment(stable))
    return workload.runs(found) if found else None


def check(chosen: Settings, use_case: str, plan: Plan) -> dict[str, str] | None:
    """What the cluster runs now; ReleaseError without overlay or cluster, or where no route could share requests."""
    stable = objects(chosen, use_case)
    _shares(chosen, stable, plan)
    before = current(stable)
    return asdict(before) if before else None


def runs(chosen: Settings, pending: Transaction) -> bool:
    """Whether the Deployment is of the release."""
    return current(objects(chosen, pending.use_case)) == _wanted(pending)


def stage(chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
    """Run one pod of the release beside the Deployment and ask it for its golden rows; says so, or ReleaseError."""
    signed = images.check_signature(chosen, images.parsed(pending.image), say=say)
    stable = objects(chosen, pending.use_case)
    beside = _beside(stable, pending)
    needed = [item for item in _released(stable, pending) if item["kind"] not in ("Deployment", "HTTPRoute")]
    _put([*needed, *(item for item in beside if item["kind"] != "ConfigMap")], say=say)
    with _reached(beside) as url:
        rows = local.smoke(url, folder, pending.release, arm="champion")
    return golden.told(rows, by=workload.label(workload.deployment(beside)), signed=signed)


def walk(chosen: Settings, pending: Transaction, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]) -> None:
    """Take the steps of a canary, by the route's weights, if anything runs there; then roll the Deployment over.

    One pod of each release is watched. ReleaseError at the first step that is not passed.
    """
    stable = objects(chosen, pending.use_case)
    beside = _beside(stable, pending)
    steps = _shares(chosen, stable, plan) if pending.deployed_before else {}
    for percent, routes in steps.items():
        lead = partial(cluster.apply, routes, say=say)
        with _reached(beside) as ours, _reached(stable) as theirs:
            trial.step(pending.release, plan, percent, lead, ours=ours, theirs=theirs, say=say, checkpoint=checkpoint)
    _put([item for item in _released(stable, pending) if item["kind"] != "HTTPRoute"], say=say)


def switch(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Lead the route to the Deployment, which is of the release, and take the canary away."""
    stable = objects(chosen, pending.use_case)
    _put(_released(stable, pending), say=say)
    _remove(_beside(stable, pending), say=say)


def revert(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Bring the cluster back to what it ran before; if that was nothing, the Deployment goes."""
    before = Deployed(**pending.deployed_before) if pending.deployed_before else None
    try:
        stable = objects(chosen, pending.use_case)
        if before is None:
            cluster.delete(workload.deployment(stable), say=say)
        elif current(stable) != before:
            _put(workload.released(stable, pending.use_case, before), say=say)
        elif routes := workload.routes(stable):
            cluster.apply(routes, say=say)
        _remove(_beside(stable, pending), say=say)
    except ReleaseError as error:
        raise ReleaseError(
            f"{pending.release} is not released, but the cluster could not be brought back to "
            f"{before.release if before else 'nothing'}; the next `bentoflow release` tries again: {error}"
        ) from error


def _wanted(pending: Transaction) -> Deployed:
    return Deployed(image=pending.image, release=pending.release)


def _released(stable: list[Object], pending: Transaction) -> list[Object]:
    return workload.released(stable, pending.use_case, _wanted(pending))


def _beside(stable: list[Object], pending: Transaction) -> list[Object]:
    return workload.canary(stable, pending.use_case, _wanted(pending))


def _shares(chosen: Settings, made: list[Object], plan: Plan) -> dict[int, list[Object]]:
    """The routes of each step."""
    with _about(chosen):
        return {percent: workload.routes(made, percent) for percent in plan.steps}


def _put(made: list[Object], *, say: Say) -> None:
    """Apply objects, and wait until all pods of the Deployment among them are as it says."""
    cluster.apply(made, say=say)
    cluster.await_rollout(workload.deployment(made), seconds=ROLLOUT_S, say=say)


def _remove(beside: list[Object], *, say: Say) -> None:
    """Take away what runs beside; its rollout file stays, as that of every release."""
    for item in beside:
        if item["kind"] != "ConfigMap":
            cluster.delete(item, say=say)


def _reached(made: list[Object]) -> AbstractContextManager[str]:
    """One pod behind the Service: not past the gateway, which would ask any release, nor past a network policy."""
    return cluster.forwarded(next(item for item in made if item["kind"] == "Service"), "http")


@contextmanager
def _about(chosen: Settings) -> Iterator[None]:
    """What is wrong with an overlay, with its name."""
    try:
        yield
    except ValueError as error:
        raise ReleaseError(f"{chosen.kubernetes_overlay} {error}") from error
