"""release: a gated version becomes model, bento, image if asked for, smoke-tested champion; or everything reverts."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun

from bentos.runtime import clock
from bentos.runtime.scoring import manifest
from flows import servers, usecases
from flows.alerts import outbox
from flows.errors import GateError, ReleaseError
from flows.settings import Settings, Target, settings
from flows.steps.rollouts import tenure
from flows.stores import admission, bentos, history, images, lineage, locks, registry, transaction
from flows.targets import placement
from flows.targets import registry as remote
from flows.walk import Plan


class Busy(ReleaseError):
    """Another release of the use case is under way."""


def checkpoint(name: str) -> None:
    """Ends the process here if BENTOFLOW_KILL_AFTER says so: how the tests kill a release between any two steps."""
    if os.environ.get("BENTOFLOW_KILL_AFTER") == name:
        os._exit(137)


@contextmanager
def exclusive(home: Path, use_case: str) -> Iterator[None]:
    """One release or rollback of a use case at a time; ReleaseError if another is at it."""
    with locks.held(home, f"release-{use_case}") as alone:
        if not alone:
            raise Busy(f"another release of {use_case} is under way; try again when it is done")
        yield


def settle(home: Path, use_case: str) -> str | None:
    """Complete or revert what a killed release left, unless one is at it right now; says which, or None."""
    with locks.held(home, f"release-{use_case}") as alone:
        return placement.recover(settings().model_copy(update={"home": home}), use_case) if alone else None


@task(cache_policy=NO_CACHE)
def keep(use_case: str, version: registry.Version) -> tuple[str, Path]:
    """The version's files in BentoML's model store under a tag that holds their hash; tag and folder."""
    with TemporaryDirectory() as folder:
        files = registry.release_files(version, Path(folder))
        found = manifest.load(files)
        if found.digest() != version.tags.get("manifest_sha256") or found.verdict != "PROMOTE":
            raise GateError(f"the files of version {version.number} are not the ones that its gates judged")
        tag = f"{use_case}:v{version.number}-{found.digest()[:8]}"
        release = Path(folder) / "kept"
        shutil.copytree(files, release)
        (release / "release.json").write_text(json.dumps({"release": tag, "model_version": version.number}))
        bentos.carry_registry(settings().home, release)
        bentos.keep_model(tag, release, {"use_case": use_case, "version": version.number, "snapshot": found.snapshot})
    return tag, bentos.model_folder(tag)


@task(cache_policy=NO_CACHE)
def build(tag: str, use_case: str, folder: Path) -> str:
    """The bento; its labels carry version, commit, snapshot and metrics."""
    found = manifest.load(folder)
    labels = {
        "model": tag.replace(":", "-"),
        "commit": found.commit.replace("+", "-"),
        "code_commit": lineage.commit().replace("+", "-"),
        "snapshot": found.snapshot,
        **{
            name: f"{found.metrics[name]:.4f}"
            for name in ("roc_auc", "average_precision", "brier_skill")
            if name in found.metrics
        },
    }
    return bentos.build(tag, tag, use_case, labels)


@task(cache_policy=NO_CACHE)
def package(chosen: Settings, use_case: str, bento: str, folder: Path) -> str:
    """The bento as an image, tested and pushed; `repository@sha256:…`."""
    say = get_run_logger().info
    return str(remote.package(chosen, use_case, bento, folder, say=say, checkpoint=checkpoint))


@task(cache_policy=NO_CACHE)
def verify(chosen: Settings, pending: transaction.Transaction, folder: Path) -> str:
    """The release comes up where it is to run and answers its golden rows."""
    return placement.of(pending).stage(chosen, pending, folder, say=get_run_logger().info)


def carry_out(
    chosen: Settings, pending: transaction.Transaction, folder: Path, log: Any, plan: Plan | None = None
) -> dict[str, Any]:
    """Stage, smoke, walk the canary, commit, switch, record; any failure before the commit reverts everything."""
    home, place = chosen.home, placement.of(pending)
    transaction.write(home, pending)
    checkpoint("intent")
    try:
        transaction.stage(home, pending)
        checkpoint("staged")
        log.info(verify(chosen, pending, folder))
        checkpoint("smoked")
        place.walk(chosen, pending, plan or Plan(), say=log.info, checkpoint=checkpoint)
        checkpoint("walked")
    except BaseException as error:  # Ctrl-C too
        place.revert(chosen, pending, say=log.info)
        transaction.revert(home, pending, f"{type(error).__name__}: {error}"[:500])
        raise
    done = transaction.commit(home, pending)
    checkpoint("committed")
    place.switch(chosen, done, say=log.info)
    transaction.switch(home, done)
    checkpoint("switched")
    transaction.record(home, done)
    return transaction.describe(done)


def unmoved(chosen: Settings, pending: transaction.Transaction) -> bool:
    """Whether the champion has that image already, and runs where it is to."""
    if registry.get(pending.use_case, pending.version).tags.get("image") != pending.image:
        return False
    target = tenure.target(history.read(chosen.home, pending.use_case))
    return pending.target in ("", target) and placement.of(pending).runs(chosen, pending)


def kept(use_case: str, run: FlowRun, error: object) -> None:
    """A line of history for a run that failed and reverted nothing, so that it is told; a refusal is none."""
    home = settings().home
    newest = next((line for line in reversed(history.read(home, use_case)) if line["action"] == "reverted"), None)
    began = run.start_time or run.created
    told = newest is not None and began is not None and datetime.fromisoformat(newest["wall"]) >= began
    if not told and not isinstance(error, GateError | Busy):
        facts = {"version": run.parameters.get("version"), "run": run.name}
        reason = f"{type(error).__name__}: {error}"[:500] if isinstance(error, Exception) else "the run was killed"
        history.append(home, use_case, "release failed", at=clock.now(home, use_case), reason=reason, **facts)


@flow(name="release", **outbox.hooks(kept))
@servers.named
def release(
    use_case: str = "churn",
    version: str | None = None,
    target: Target | None = None,
    reason: str = "manual",
    steps: tuple[int, ...] = (),
    min_answers: int = Plan.min_answers,
    step_minutes: float = Plan.max_minutes,
    labels: str | None = None,
) -> dict[str, Any]:
    """Release a version (default: the challenger) whose gates said PROMOTE; a worse one never gets this far.

    `target` says where it is to run (flows/targets); the default is BENTOFLOW_TARGET. Every one but `local` takes an
    image in BENTOFLOW_REGISTRY, by its digest. A champion without an image gets one, and its place.

    With `steps`, such as 1, 10, 50, 100, it answers that percentage of entities first, each step until `min_answers`
    rows came or `step_minutes` are over, and is judged on errors, latency, scores and, where `labels` (parquet with
    request_id and label) has some, early labels. At the first bad judgement everything reverts. A first release has
    no champion to be compared with and takes no steps.
    """
    chosen, log = settings(), get_run_logger()
    plan = Plan(steps=tuple(steps), min_answers=min_answers, max_minutes=step_minutes, labels=labels)
    usecases.load(use_case)
    to = target or chosen.target
    if as_image := placement.takes_image(to):
        images.repository(chosen, use_case)  # before anything is done: where it would go
    with exclusive(chosen.home, use_case):
        if (settled := placement.recover(chosen, use_case)) is not None:
            log.warning("an interrupted release was %s", settled)
            if version is None:
                return {"use_case": use_case, "action": settled}
        if (mended := transaction.mend(chosen.home, use_case, clock.now(chosen.home, use_case))) is not None:
            log.warning("the rollout file was written anew: %s", mended)
            if version in (None, registry.aliases(use_case)["champion"]):
                return {"use_case": use_case, "action": "mended", "reason": mended}
        wanted = admission.releasable(use_case, version)
        before, answers = registry.aliases(use_case), transaction.champion_release(chosen.home, use_case)
        after = {"champion": wanted.number, "challenger": None, "previous": before.get("champion")}
        in_charge = before.get("champion") == wanted.number
        if in_charge and not as_image:
            log.info("version %s is champion already", wanted.number)
            return {"use_case": use_case, "action": "unchanged", "version": wanted.number}
        deployed = placement.PLACES[to].check(chosen, use_case, plan)
        tag, folder = keep(use_case, wanted)
        bento = build(tag, use_case, folder)
        image = package(chosen, use_case, bento, folder) if as_image else ""
        pending = transaction.Transaction(
            use_case=use_case,
            action="imaged" if in_charge else "promoted",
            release=tag,
            version=wanted.number,
            reason=reason,
            bento=bento,
            image=image,
            target=placement.recorded(to),
            deployed_before=deployed,
            at=clock.now(chosen.home, use_case).isoformat(),
            aliases=dict(before) if in_charge else after,
            aliases_before={alias: before.get(alias) for alias in registry.ALIASES},
            champion_before=answers,
        )
        if in_charge and unmoved(chosen, pending):
            return {"use_case": use_case, "action": "unchanged", "version": wanted.number, "image": image}
        result = carry_out(chosen, pending, folder, log, plan if answers not in (None, tag) else None)
    create_markdown_artifact(
        key=f"{use_case}-release",
        markdown=f"# {use_case} version {wanted.number} is champion\n\n"
        f"Release `{tag}`, bento `{bento}`{f', image `{image}`' if image else ''}, because: {reason}.",
    )
    return result


if __name__ == "__main__":
    print(release())
