"""The AWS modules: formatted, valid, joined as meant, refused where wrong, clean to checkov, applied to moto and gone.

moto accepts much that AWS refuses, and has no EKS add-ons, no EFS backups and no security group of a cluster; waiters
for RDS and ElastiCache take minutes or never end. Add-ons, database, cache and alarms are applied to the mocked
provider alone.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest

from tests import servers
from tests.infra import terraform as terraforms
from tests.infra import tools
from tests.infra.terraform import MODULES, Terraform

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-central-1"}
OVERRIDE = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""
# EKS makes a group for a cluster's nodes and pods; moto's name of it is empty
GROUP = """
data "aws_subnet" "inside" {
  id = var.subnets[0]
}

resource "aws_security_group" "of_eks" {
  name        = "eks-cluster-sg-${var.name}"
  description = "nodes and pods"
  vpc_id      = data.aws_subnet.inside.vpc_id
}
"""
GROUP_OVERRIDE = """
output "security_group" {
  value = aws_security_group.of_eks.id
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
FAITHFUL = (  # without lifecycles and logging of buckets, which the provider waits for and moto never shows as sent
    "module.network",
    "module.secrets",
    "module.registry",
    *(f"{STORAGE}_{part}.this" for part in ("versioning", "policy", "public_access_block")),
    f"{STORAGE}_server_side_encryption_configuration.this",
    "module.identity.aws_iam_role_policy.github",
    *(f"module.files.aws_efs_{part}.this" for part in ("mount_target", "access_point")),
    *(f"module.balancer[0].aws_lb_listener.{name}" for name in ("tls", "plain")),
    *(f"module.balancer[0].aws_vpc_security_group_{rule}" for rule in ("ingress_rule.outside", "egress_rule.inside")),
)
APPLIED = (  # and what a second plan would change, since moto forgets: settings of a cluster, words on rules of groups
    *FAITHFUL,
    "module.files.aws_vpc_security_group_ingress_rule.nfs",
    "module.balancer",
    "module.cluster.aws_eks_node_group.this",
    "module.cluster.aws_iam_role_policy_attachment.driver",
    "module.identity.aws_iam_role_policy.pod",
)
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
    cluster = terraform.folder / "modules" / "cluster"
    (cluster / "group.tf").write_text(GROUP)
    (cluster / "group_override.tf").write_text(GROUP_OVERRIDE)
    values = VALUES | {"certificate": certificate(terraform.folder, aws), "protected": False}
    (terraform.folder / "terraform.tfvars.json").write_text(json.dumps(values))
    there = Terraform(terraform.folder, {**terraform.env, **aws})
    try:
        there("apply", "-auto-approve", *targets(APPLIED), seconds=200)
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


def targets(addresses: Iterable[str]) -> list[str]:
    """Options that leave the rest of the modules out."""
    return [f"-target={address}" for address in addresses]


def certificate(folder: Path, aws: dict[str, str]) -> str:
    """The ARN of a certificate that the balancer can have."""
    key, made = folder / "key.pem", folder / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bentoflow.test"]
    tools.run("openssl", *request, "-keyout", key, "-out", made)
    imported = client("acm", aws).import_certificate(Certificate=made.read_bytes(), PrivateKey=key.read_bytes())
    return str(imported["CertificateArn"])


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


def test_nothing_inside_has_an_address_of_its_own(applied: Terraform, aws: dict[str, str]) -> None:
    """Two subnets a zone: from inside the way out is that zone's NAT gateway, and S3 is reached without it."""
    ec2 = client("ec2", aws)
    (network,) = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": ["bentoflow-staging"]}])["Vpcs"]
    within = [{"Name": "vpc-id", "Values": [network["VpcId"]]}]
    subnets = {subnet["SubnetId"]: subnet for subnet in ec2.describe_subnets(Filters=within)["Subnets"]}
    assert len(subnets) == 4
    gateways = {gateway["NatGatewayId"]: gateway["SubnetId"] for gateway in ec2.describe_nat_gateways()["NatGateways"]}
    (s3,) = ec2.describe_vpc_endpoints(Filters=within)["VpcEndpoints"]
    inside = 0
    for table in ec2.describe_route_tables(Filters=within)["RouteTables"]:
        held = [link["SubnetId"] for link in table["Associations"] if "SubnetId" in link]
        out = [route for route in table["Routes"] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
        if held and "NatGatewayId" in out[0]:
            inside += 1
            (subnet,) = held
            zone = subnets[gateways[out[0]["NatGatewayId"]]]["AvailabilityZone"]
            assert subnets[subnet]["AvailabilityZone"] == zone
            assert table["RouteTableId"] in s3["RouteTableIds"]
    assert inside == 2


def test_the_cluster_is_reached_from_inside_alone(applied: Terraform, aws: dict[str, str]) -> None:
    """The API is private and its secrets encrypted by our key; nodes are inside, and their disks encrypted."""
    eks, ec2 = client("eks", aws), client("ec2", aws)
    cluster = eks.describe_cluster(name="bentoflow-staging")["cluster"]
    access = cluster["resourcesVpcConfig"]
    assert (access["endpointPrivateAccess"], access["endpointPublicAccess"]) == (True, False)
    (encrypted,) = cluster["encryptionConfig"]
    assert encrypted["resources"] == ["secrets"]
    assert encrypted["provider"]["keyArn"].startswith("arn:aws:kms:eu-central-1:123456789012:key/")
    nodes = eks.describe_nodegroup(clusterName="bentoflow-staging", nodegroupName="x86")["nodegroup"]
    found = ec2.describe_subnets(SubnetIds=nodes["subnets"])["Subnets"]
    names = {tag["Value"] for subnet in found for tag in subnet["Tags"] if tag["Key"] == "Name"}
    assert names == {f"bentoflow-staging-inside-{zone}" for zone in VALUES["zones"]}
    template = ec2.describe_launch_template_versions(LaunchTemplateId=nodes["launchTemplate"]["id"])
    data = template["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"


def test_a_pod_takes_its_role_by_its_service_account(applied: Terraform, aws: dict[str, str]) -> None:
    """Each role names one account of the cluster's own issuer."""
    iam, eks = client("iam", aws), client("eks", aws)
    issuer = eks.describe_cluster(name="bentoflow-staging")["cluster"]["identity"]["oidc"]["issuer"]
    roles = json.loads(applied("output", "-json"))["pod_roles"]["value"]
    accounts = {
        "worker": "bentoflow:worker",
        "mlflow": "mlflow:mlflow",
        "balancer": "kube-system:aws-load-balancer-controller",
    }
    assert roles.keys() == accounts.keys()
    for name, arn in roles.items():
        role = iam.get_role(RoleName=arn.rpartition("/")[2])["Role"]
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        at = issuer.removeprefix("https://")
        assert trusted["Principal"]["Federated"].endswith(f":oidc-provider/{at}")
        assert trusted["Condition"]["StringEquals"] == {
            f"{at}:aud": "sts.amazonaws.com",
            f"{at}:sub": f"system:serviceaccount:{accounts[name]}",
        }


def test_tls_ends_at_the_balancer(applied: Terraform, aws: dict[str, str]) -> None:
    """HTTPS with a current policy, HTTP only to be sent on to it."""
    elb = client("elbv2", aws)
    (balancer,) = elb.describe_load_balancers(Names=["bentoflow-staging"])["LoadBalancers"]
    listeners = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
    tls, plain = sorted(listeners, key=lambda listener: -listener["Port"])
    assert (tls["Port"], tls["Protocol"], tls["SslPolicy"]) == (443, "HTTPS", "ELBSecurityPolicy-TLS13-1-2-Res-2021-06")
    assert (plain["Port"], plain["DefaultActions"][0]["Type"]) == (80, "redirect")
    assert plain["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"


def test_the_journals_volume_belongs_to_the_images_user(applied: Terraform, aws: dict[str, str]) -> None:
    """Encrypted, reachable in every zone, and written to as 10001."""
    efs = client("efs", aws)
    (volume,) = efs.describe_file_systems()["FileSystems"]
    assert volume["Encrypted"]
    (point,) = efs.describe_access_points(FileSystemId=volume["FileSystemId"])["AccessPoints"]
    assert (point["PosixUser"]["Uid"], point["RootDirectory"]["CreationInfo"]["OwnerUid"]) == (10001, 10001)
    assert len(efs.describe_mount_targets(FileSystemId=volume["FileSystemId"])["MountTargets"]) == 2


def test_a_second_plan_changes_nothing(applied: Terraform) -> None:
    """Where moto is faithful, what was applied is what is declared."""
    applied("plan", "-detailed-exitcode", *targets(FAITHFUL))
