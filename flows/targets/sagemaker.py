"""The sagemaker target: a release's image as a real-time endpoint; SageMaker asks its /ping and /invocations.

Credentials and region are boto3's own. The image must be in ECR, which `BENTOFLOW_REGISTRY` names.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from flows.errors import ReleaseError
from flows.settings import Settings
from flows.targets import hosting

FAILED = ("Failed", "UpdateRollbackFailed", "OutOfService")


@dataclass(frozen=True)
class SageMaker:
    """Models, configurations and endpoints of one account and region."""

    chosen: Settings
    api: Any
    runtime: Any

    def run(self, endpoint: str, model: str, image: str) -> None:
        """A model, a configuration, and an endpoint or its update: requests move once new machines answer."""
        config = self._config(model)
        with told(f"running {model} at {endpoint}"):
            if not found(self.api.describe_model, ModelName=model):
                container = {"Image": image, "Environment": hosting.environment(self.chosen)}
                role = self.chosen.sagemaker_role
                self.api.create_model(ModelName=model, PrimaryContainer=container, ExecutionRoleArn=role)
            if not found(self.api.describe_endpoint_config, EndpointConfigName=config):
                self.api.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[self._variant(model)])
            now = found(self.api.describe_endpoint, EndpointName=endpoint)
            if now is None:
                self.api.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)
            elif now["EndpointConfigName"] != config:
                self.api.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
            hosting.wait(f"{endpoint} with {model}", lambda: self._up(endpoint))
        if not self.runs(endpoint, model):
            raise ReleaseError(f"{endpoint} went back to what it was before {model}: see the endpoint's log group")

    def runs(self, endpoint: str, model: str) -> bool:
        """Whether the endpoint is in service with the model's configuration."""
        with told(f"looking at {endpoint}"):
            now = found(self.api.describe_endpoint, EndpointName=endpoint) or {}
        return (now.get("EndpointStatus"), now.get("EndpointConfigName")) == ("InService", self._config(model))

    def ask(self, endpoint: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Invoke the endpoint."""
        body = json.dumps({"dataframe_records": list(rows)}).encode()
        with told(f"asking {endpoint}"):
            answer = self.runtime.invoke_endpoint(EndpointName=endpoint, ContentType="application/json", Body=body)
            predictions: list[dict[str, Any]] = json.loads(answer["Body"].read())["predictions"]
        return predictions

    def remove(self, endpoint: str) -> None:
        """Delete the endpoint; models and configurations cost nothing and stay, for a rollback."""
        with told(f"removing {endpoint}"):
            if found(self.api.describe_endpoint, EndpointName=endpoint):
                self.api.delete_endpoint(EndpointName=endpoint)
                hosting.wait(f"{endpoint}'s end", lambda: not found(self.api.describe_endpoint, EndpointName=endpoint))

    def _up(self, endpoint: str) -> bool:
        now = self.api.describe_endpoint(EndpointName=endpoint)
        if now["EndpointStatus"] in FAILED:
            raise ReleaseError(f"{endpoint} is {now['EndpointStatus']}: {now.get('FailureReason', 'no reason given')}")
        return bool(now["EndpointStatus"] == "InService")

    def _variant(self, model: str) -> dict[str, Any]:
        return {
            "VariantName": "all",
            "ModelName": model,
            "InstanceType": self.chosen.sagemaker_instance,
            "InitialInstanceCount": self.chosen.hosted_instances,
        }

    def _config(self, model: str) -> str:
        """Name of the model's configuration: another one if the machines are others, since none can be changed."""
        return f"{model}-{sha256(json.dumps(self._variant(model)).encode()).hexdigest()[:8]}"


def connect(chosen: Settings) -> SageMaker:
    """SageMaker as boto3 finds it; ReleaseError without boto3, region or the endpoints' role."""
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError as error:
        raise ReleaseError("the target sagemaker needs boto3: pip install '.[sagemaker]'") from error
    if not chosen.sagemaker_role:
        raise ReleaseError("BENTOFLOW_SAGEMAKER_ROLE is not set: give the ARN of the role that endpoints run with")
    with told("reaching SageMaker"):
        return SageMaker(chosen, boto3.client("sagemaker"), boto3.client("sagemaker-runtime"))


def found(describe: Any, **name: str) -> dict[str, Any] | None:
    """What SageMaker says of a thing; None if there is none of that name."""
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    try:
        said: dict[str, Any] = describe(**name)
    except ClientError as error:
        if "Could not find" in error.response["Error"]["Message"]:
            return None
        raise
    return said


@contextmanager
def told(doing: str) -> Iterator[None]:
    """AWS's errors as ours, with what was being done."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ReleaseError(f"SageMaker, {doing}: {error}") from error


PLACE = hosting.Place(connect)
