"""The kubernetes target: an image that the registry target has tested, in the Deployment of an overlay; and back.

A release is applied, awaited and asked for its golden rows through the Service; with steps it answers a share of the
requests as a canary first. What the cluster ran before is restored if any of it fails.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bentos.runtime.scoring import manifest
from flows.errors import ReleaseError
from flows.settings import Settings
from flows.steps.rollouts import workload
from flows.steps.rollouts.workload import Deployed, Object
from flows.stores import cluster, images
from flows.stores.engines import Say
from flows.stores.transaction import Transaction
from flows.targets import counters, local, registry
from flows.walk import Plan

ROLLOUT_S = 900.0  # for all pods, one after the other; the Deployment itself gives up after 300 s without progress


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release on its way into the cluster: what to deploy, and the entity and folder of its golden rows."""

    use_case: str
    entity: str
    folder: Path
    wanted: Deployed


def objects(chosen: Settings, use_case: str) -> list[Object]:
    """The use case's objects in the overlay of the settings; ReleaseError if there is none."""
    if not chosen.kubernetes_overlay:
        raise ReleaseError(
            "BENTOFLOW_KUBERNETES_OVERLAY is not set: name the folder of the kustomization that the cluster is given, "
            "such as infra/kubernetes/overlays/production"
        )
    with _about(chosen):
        return workload.own(cluster.rendered(Path(chosen.kubernetes_overlay)), use_case)


def current(chosen: Settings, use_case: str) -> Deployed | None:
    """What the cluster runs now; None before the first release."""
    found = cluster.find(workload.deployment(objects(chosen, use_case)))
    return workload.runs(found) if found else None


def check(chosen: Settings, use_case: str, steps: Sequence[int]) -> dict[str, str] | None:
    """What the cluster runs now; ReleaseError where it cannot be asked."""
    found = current(chosen, use_case)
    return asdict(found) if found else None


def runs(chosen: Settings, pending: Transaction) -> bool:
    """Whether the Deployment is of this image and release."""
    return current(chosen, pending.use_case) == _wanted(pending)


def stage(chosen: Settings, pending: Transaction, folder: Path, *, say: Say) -> str:
    """Ask the image, as the registry has it, on this machine: the cluster does not know of it yet."""
    return registry.verify(chosen, images.parsed(pending.image), folder, pending.release, say=say)


def walk(
    chosen: Settings,
    pending: Transaction,
    folder: Path,
    plan: Plan,
    *,
    say: Say,
    checkpoint: Callable[[str], None],
) -> None:
    """Bring the release into the cluster, by a canary's steps where something answers there already."""
    entity = manifest.load(folder).entity
    coming = Release(use_case=pending.use_case, entity=entity, folder=folder, wanted=_wanted(pending))
    if plan.steps and pending.deployed_before:
        share(chosen, coming, plan, say=say, checkpoint=checkpoint)
    say(deploy(chosen, coming, say=say))
    checkpoint("deployed")


def switch(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Nothing: the Deployment moved before the commit, when a rollout that fails could be taken back."""


def revert(chosen: Settings, pending: Transaction, *, say: Say) -> None:
    """Bring the cluster back to what it ran before.

    ReleaseError if that fails: then the release stays under way, and the next start tries again.
    """
    before = Deployed(**pending.deployed_before) if pending.deployed_before else None
    try:
        restore(chosen, pending.use_case, before, say=say)
    except ReleaseError as error:
        raise ReleaseError(
            f"{pending.release} is not released, but the cluster could not be brought back to "
            f"{before.release if before else 'nothing'}; the next `bentoflow release` tries again: {error}"
        ) from error


def _wanted(pending: Transaction) -> Deployed:
    return Deployed(image=pending.image, release=pending.release)


def deploy(chosen: Settings, release: Release, *, say: Say) -> str:
    """Apply the release, wait until all pods are of it, ask it, lead the requests there. Says what was seen."""
    made = workload.released(objects(chosen, release.use_case), release.use_case, release.wanted)
    _put([item for item in made if item["kind"] != "HTTPRoute"], say=say)
    rows = _smoke(made, release)
    if routes := workload.routes(made):
        cluster.apply(routes, say=say)
    _remove_canary(made, release.use_case, say=say)
    return f"{rows} golden rows answered exactly by {workload.label(workload.deployment(made))}"


def restore(chosen: Settings, use_case: str, before: Deployed | None, *, say: Say) -> None:
    """Bring the cluster back to what it ran before; if that was nothing, the Deployment goes."""
    made = objects(chosen, use_case)
    if before is None:
        cluster.delete(workload.deployment(made), say=say)
    elif current(chosen, use_case) != before:
        _put(workload.released(made, use_case, before), say=say)
    elif routes := workload.routes(made):
        cluster.apply(routes, say=say)
    _remove_canary(made, use_case, say=say)


def share(chosen: Settings, release: Release, plan: Plan, *, say: Say, checkpoint: Callable[[str], None]) -> None:
    """Take the steps of a canary; ReleaseError with the reasons at the first that is not passed.

    One pod of each release is watched by its own counters. Scores are not compared, since the journal is the cluster's.
    """
    stable = objects(chosen, release.use_case)
    beside = workload.canary(stable, release.use_case, release.wanted)
    with _about(chosen):
        steps = {percent: workload.routes(stable, percent) for percent in plan.steps}
    _put(beside, say=say)
    _smoke(beside, release)
    for percent, routes in steps.items():
        with _reached(beside) as ours, _reached(stable) as theirs:
            began = counters.figures(ours), counters.figures(theirs)
            cluster.apply(routes, say=say)
            checkpoint(f"canary_{percent}")
            counters.judge(release.wanted.release, percent, plan, ours=ours, theirs=theirs, began=began, say=say)


def _put(made: list[Object], *, say: Say) -> None:
    cluster.apply(made, say=say)
    cluster.await_rollout(workload.deployment(made), seconds=ROLLOUT_S, say=say)


def _smoke(made: list[Object], release: Release) -> int:
    with _reached(made) as url:
        return local.smoke(url, release.entity, release.folder, release.wanted.release, arm="champion")


def _reached(made: list[Object]) -> AbstractContextManager[str]:
    """One pod behind the Service: not past the gateway, which would ask any release, nor past a network policy."""
    return cluster.forwarded(next(item for item in made if item["kind"] == "Service"), "http")


def _remove_canary(made: list[Object], use_case: str, *, say: Say) -> None:
    for item in workload.canary(made, use_case, workload.runs(workload.deployment(made))):
        if item["kind"] != "ConfigMap":
            cluster.delete(item, say=say)


@contextmanager
def _about(chosen: Settings) -> Iterator[None]:
    """What is wrong with an overlay, with its name."""
    try:
        yield
    except ValueError as error:
        raise ReleaseError(f"{chosen.kubernetes_overlay} {error}") from error
