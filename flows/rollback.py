"""rollback: back to the previous release, whole, through the same transaction as a release."""

from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger

from bentos.runtime import clock
from flows import servers, usecases
from flows.alerts import outbox
from flows.errors import ReleaseError, StoreError
from flows.release import carry_out, exclusive, keep, kept
from flows.settings import settings
from flows.steps.rollouts import tenure
from flows.stores import bentos, history, registry, transaction
from flows.targets import placement
from flows.walk import Plan


@flow(name="rollback", **outbox.hooks(kept))
@servers.named
def rollback(use_case: str = "churn", reason: str = "manual") -> dict[str, Any]:
    """Back to the previous release, whole: model, threshold, features and reference; verified before it answers."""
    chosen, log = settings(), get_run_logger()
    usecases.load(use_case)
    with exclusive(chosen.home, use_case):
        if (settled := placement.recover(chosen, use_case)) is not None:
            log.warning("an interrupted release was %s; say rollback again if you still want it", settled)
            return {"use_case": use_case, "action": settled}
        transaction.mend(chosen.home, use_case, clock.now(chosen.home, use_case))
        lines = history.read(chosen.home, use_case)
        champions, target = tenure.stack(lines), tenure.target(lines)
        if len(champions) < 2:
            raise ReleaseError(f"{use_case} has no previous release to go back to; see `bentoflow status`")
        earlier = next(
            line for line in reversed(lines) if line["action"] == tenure.PROMOTED and line["version"] == champions[-2]
        )
        try:
            folder = bentos.model_folder(earlier["release"])
        except StoreError:
            folder = keep(use_case, registry.get(use_case, earlier["version"]))[1]
        image = registry.get(use_case, earlier["version"]).tags.get("image", "")
        if target and not image:
            raise ReleaseError(
                f"version {earlier['version']} was champion before it had an image, and {target} runs images: "
                "train, and release a better one"
            )
        before = registry.aliases(use_case)
        pending = transaction.Transaction(
            use_case=use_case,
            action="rolled back",
            release=earlier["release"],
            version=earlier["version"],
            bento=earlier.get("bento", ""),
            image=image,
            target=target,
            reason=reason,
            at=clock.now(chosen.home, use_case).isoformat(),
            aliases={
                "champion": earlier["version"],
                "challenger": None,
                "previous": champions[-3] if len(champions) > 2 else None,
            },
            aliases_before={alias: before.get(alias) for alias in registry.ALIASES},
            champion_before=transaction.champion_release(chosen.home, use_case),
        )
        deployed = placement.of(pending).check(chosen, use_case, Plan())
        return carry_out(chosen, replace(pending, deployed_before=deployed), folder, log)


if __name__ == "__main__":
    print(rollback())
