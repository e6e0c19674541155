"""The AWS modules: formatted, valid, joined as meant, refused where wrong, clean to checkov, applied to moto and gone.

moto accepts much that AWS refuses, has no EKS add-ons and no EFS backups, and waiters for EKS and RDS take minutes:
network, cluster, files, database and cache are applied to the mocked provider alone.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from tests import servers
from tests.infra import terraform as terraforms
from tests.infra import tools
from tests.infra.terraform import MODULES, Terraform

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-central-1"}
OVERRIDE = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""
VALUES = {
    "environment": "staging",
    "region": "eu-central-1",
    "zones": ["eu-central-1a", "eu-central-1b"],
    "repository": "acme/bentoflow",
    "github_environments": ["staging"],
}
STORAGE = "module.storage.aws_s3_bucket"
APPLIED = (  # without lifecycles and logging of buckets, which the provider waits for and moto never shows as sent
    "module.secrets",
    "module.registry",
    *(f"{STORAGE}_{part}.this" for part in ("versioning", "policy", "public_access_block")),
    f"{STORAGE}_server_side_encryption_configuration.this",
    "module.identity.aws_iam_role_policy.github",
    "module.identity.data.aws_iam_policy_document.worker",
    "module.identity.data.aws_iam_policy_document.mlflow",
)
TARGETS = [f"-target={target}" for target in APPLIED]
PLANTED = """
resource "aws_s3_bucket_public_access_block" "planted" {
  bucket            = "planted"
  block_public_acls = false
}

data "aws_iam_policy_document" "planted" {
  statement {
    actions   = ["*"]
    resources = ["*"]
  }
}
"""


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform in a copy of the modules."""
    return terraforms.initialised(tmp_path_factory.mktemp("terraform"))


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    """The environment that leads to moto."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")  # else the managed ones cannot be attached
        with servers.s3() as url:
            yield KEYS | {"AWS_ENDPOINT_URL": url}


@pytest.fixture(scope="module")
def applied(terraform: Terraform, aws: dict[str, str]) -> Iterator[Terraform]:
    """The modules that moto is faithful enough for, applied, and destroyed afterwards."""
    (terraform.folder / "provider_override.tf").write_text(OVERRIDE)
    (terraform.folder / "terraform.tfvars.json").write_text(json.dumps(VALUES))
    there = Terraform(terraform.folder, {**terraform.env, **aws})
    try:
        there("apply", "-auto-approve", *TARGETS, seconds=100)
        yield there
    finally:
        there("destroy", "-auto-approve")
    assert json.loads(there("show", "-json")).get("values") is None, "nothing is left"


def client(service: str, aws: dict[str, str]) -> Any:
    """A boto3 client of moto."""
    return boto3.client(
        service,
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name=aws["AWS_REGION"],
        aws_access_key_id="k",
        aws_secret_access_key="s",
    )


def test_modules_are_formatted_and_valid(terraform: Terraform) -> None:
    """`fmt` changes nothing, and `validate` finds nothing."""
    terraform("fmt", "-check", "-recursive")
    assert "The configuration is valid" in terraform("validate")


def test_parts_are_joined_and_wrong_values_refused(terraform: Terraform) -> None:
    """`terraform test` with a provider that answers anything; every run of the file passes."""
    runs = len(re.findall(r"^run ", (MODULES / "tests" / "mocked.tftest.hcl").read_text(), flags=re.M))
    assert f"Success! {runs} passed, 0 failed." in terraform("test")


def test_checkov_fails_nothing(tmp_path: Path) -> None:
    """All modules as they are called; each check that is skipped has its reason, and a planted fault is found."""
    shutil.copytree(MODULES, tmp_path / "ours", ignore=shutil.ignore_patterns(".terraform*"))
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "main.tf").write_text(PLANTED)
    options = ["--framework", "terraform", "--skip-download", "--compact", "--output", "json", "--soft-fail"]
    found = orjson.loads(tools.run(*tools.checkov(), "--directory", tmp_path, *options))["results"]
    failed = {
        (check["file_path"].split("/")[1], check["check_id"], check["resource"]) for check in found["failed_checks"]
    }
    assert {check for check in failed if check[0] != "planted"} == set()
    assert {"CKV_AWS_53", "CKV_AWS_109"} <= {check[1] for check in failed}
    assert not found["parsing_errors"]
    assert len(found["passed_checks"]) > 300
    assert all(len(check["check_result"]["suppress_comment"]) > 7 for check in found["skipped_checks"])


def test_a_job_of_one_environment_may_read_one_secret(applied: Terraform, aws: dict[str, str]) -> None:
    """GitHub's role: who may take it, to the letter, and all that it may do."""
    iam = client("iam", aws)
    role = iam.get_role(RoleName="bentoflow-staging-github-staging")["Role"]
    (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Condition"]["StringEquals"] == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": "repo:acme/bentoflow:environment:staging",
    }
    (name,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
    secret = client("secretsmanager", aws).describe_secret(SecretId="bentoflow-staging/prefect")
    assert [statement["Action"] for statement in policy["Statement"]] == [
        "secretsmanager:GetSecretValue",
        "kms:Decrypt",
    ]
    assert policy["Statement"][0]["Resource"] == secret["ARN"]


def test_no_pod_may_do_more_than_it_does(applied: Terraform) -> None:
    """Objects of its buckets, images of its repositories; no wildcard but the one that ECR's login needs."""
    modules = json.loads(applied("show", "-json"))["values"]["root_module"]["child_modules"]
    resources = {one["address"]: one["values"] for module in modules for one in module["resources"]}
    actions = {}
    for account in ("worker", "mlflow"):
        policy = json.loads(resources[f"module.identity.data.aws_iam_policy_document.{account}"]["json"])["Statement"]
        said = [(listed(one["Action"]), listed(one["Resource"])) for one in policy]
        assert [what for what, where in said if "*" in where] in ([], [["ecr:GetAuthorizationToken"]])
        actions[account] = {action for what, _ in said for action in what}
        assert not {action for action in actions[account] if re.search(r"\*|Policy|Acl|DeleteB|DeleteR", action)}
    assert actions["mlflow"] < actions["worker"]


def listed(value: Any) -> list[str]:
    """A policy's element, which may be one text."""
    return [value] if isinstance(value, str) else list(value)


def test_buckets_and_images_are_kept_and_encrypted(applied: Terraform, aws: dict[str, str]) -> None:
    """Versions, the key, no public access, no request without TLS; a tag of an image never moves."""
    s3, ecr = client("s3", aws), client("ecr", aws)
    names = sorted(bucket["Name"] for bucket in s3.list_buckets()["Buckets"])
    assert names == [f"bentoflow-staging-{use}-123456789012" for use in ("artefacts", "data", "logs")]
    for name in names:
        assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
        assert all(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())
        first = json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"][0]
        assert (first["Effect"], first["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    outputs = json.loads(applied("output", "-json"))
    assert outputs["buckets"]["value"]["data"] in names
    for repository in ecr.describe_repositories()["repositories"]:
        assert repository["imageTagMutability"] == "IMMUTABLE"
        assert repository["repositoryUri"].startswith(outputs["registry"]["value"] + "/")


def test_a_second_plan_changes_nothing(applied: Terraform) -> None:
    """Where moto is faithful, what was applied is what is declared."""
    applied("plan", "-detailed-exitcode", *TARGETS)
