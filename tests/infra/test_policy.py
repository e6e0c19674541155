"""checkov: no failed check in anything that is rendered, and a written reason for each that is skipped."""

from pathlib import Path

import orjson
import pytest
import yaml

from tests.infra import tools
from tests.infra.rendered import KUBERNETES, charted, kustomized, overlay
from tests.infra.test_chart import CANARY

SKIPPED = {"CKV_K8S_15", "CKV_K8S_35"}


@pytest.mark.timeout(300)
def test_checkov_fails_nothing(tmp_path: Path) -> None:
    """Overlays and the chart with everything on; one run, as it takes seconds to begin. A privileged pod is found."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (tmp_path / "canary").mkdir()
    planted = kustomized(overlay(tmp_path / "canary"))
    (deployment,) = (item for item in planted if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["privileged"] = True
    everything = {"route": {"enabled": True}, "canary": CANARY, "serviceMonitor": True}
    for name, objects in {
        "staging": kustomized(KUBERNETES / "overlays" / "staging"),
        "production": kustomized(KUBERNETES / "overlays" / "production"),
        "chart": [item | {"metadata": item["metadata"] | {"namespace": "bentoflow"}} for item in charted(everything)],
        "planted": [deployment | {"metadata": deployment["metadata"] | {"namespace": "bentoflow"}}],
    }.items():
        (sources / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
    checkov = tools.checkov()
    options = ["--framework", "kubernetes", "--skip-download", "--compact", "--output", "json", "--soft-fail"]
    found = orjson.loads(tools.run(*checkov, "--directory", sources, *options))["results"]
    failed = {(check["file_path"], check["check_id"]) for check in found["failed_checks"]}
    assert {check for check in failed if check[0] != "/planted.yaml"} == set()
    assert ("/planted.yaml", "CKV_K8S_16") in failed, "it finds what is planted"
    assert len(found["passed_checks"]) > 400
    assert {check["check_id"] for check in found["skipped_checks"]} == SKIPPED
    assert all(len(check["check_result"]["suppress_comment"]) > 20 for check in found["skipped_checks"])
