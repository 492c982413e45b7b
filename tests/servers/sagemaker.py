"""SageMaker's API as moto speaks it, in this process. The real one is a service that cannot be run.

moto forgets in an update what the update does not name, the approval status and the properties included;
here it keeps them, as SageMaker does. It knows no life cycles of packages.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

REGION = "eu-central-1"


class SageMaker:
    """Model packages of one test.

    Attributes:
        url: where the API listens.
        client: boto3's for it.
    """

    def __init__(self, url: str, client: Any) -> None:
        self.url = url
        self.client = client
        self._arns: dict[tuple[str, int], str] = {}

    def package(self, group: str, approval: str = "PendingManualApproval", **more: Any) -> int:
        """Make a new version in a group, the group too where there is none; returns its number."""
        known = self.client.list_model_package_groups()["ModelPackageGroupSummaryList"]
        if group not in {one["ModelPackageGroupName"] for one in known}:
            self.client.create_model_package_group(
                ModelPackageGroupName=group, ModelPackageGroupDescription=group
            )
        given: Mapping[str, Any] = {
            "InferenceSpecification": container("s3://models/m.tar.gz"),
            "CustomerMetadataProperties": {"stagegate.format": "onnx"},
            **more,
        }
        arn = self.client.create_model_package(
            ModelPackageGroupName=group, ModelApprovalStatus=approval, **given
        )["ModelPackageArn"]
        number = int(arn.rpartition("/")[2])
        self._arns[group, number] = arn
        return number

    def approve(self, group: str, number: int, approval: str) -> None:
        """Set an approval status."""
        self.client.update_model_package(
            ModelPackageArn=self._arns[group, number], ModelApprovalStatus=approval
        )

    def told(self, group: str, number: int) -> Mapping[str, Any]:
        """What the API says of a version."""
        found: Mapping[str, Any] = self.client.describe_model_package(
            ModelPackageName=self._arns[group, number]
        )
        return found

    def clear(self) -> None:
        """Forget all packages; moto has no call for that."""
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.sagemaker.models import sagemaker_backends

        backend = sagemaker_backends[DEFAULT_ACCOUNT_ID][REGION]
        backend.model_packages.clear()
        backend.model_package_groups.clear()


def container(uri: str, **more: Any) -> dict[str, Any]:
    """An inference specification that names model data."""
    return {
        "Containers": [{"Image": "image:1", "ModelDataUrl": uri, **more}],
        "SupportedContentTypes": ["application/json"],
        "SupportedResponseMIMETypes": ["application/json"],
    }


def _let_updates_keep_what_they_do_not_name() -> None:
    from moto.sagemaker.models import SageMakerModelBackend

    update = SageMakerModelBackend.update_model_package

    def keeping(self: Any, *, model_package_arn: str, **change: Any) -> Any:
        package = self.describe_model_package(model_package_arn)
        change["model_approval_status"] = change["model_approval_status"] or package.model_approval_status
        change["approval_description"] = change["approval_description"] or package.approval_description
        change["customer_metadata_properties"] = {
            **(package.customer_metadata_properties or {}),
            **(change["customer_metadata_properties"] or {}),
        }
        return update(self, model_package_arn=model_package_arn, **change)

    setattr(SageMakerModelBackend, "update_model_package", keeping)  # noqa: B010 - not to be typed


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """One server for all tests of a run."""
    from moto.server import ThreadedMotoServer

    _let_updates_keep_what_they_do_not_name()
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def moto_client(moto_url: str) -> Iterator[Any]:
    """One for all tests: to make one costs more than most of them."""
    import botocore.session
    from botocore.config import Config

    client = botocore.session.Session().create_client(
        "sagemaker",
        endpoint_url=moto_url,
        region_name=REGION,
        aws_access_key_id="tests",
        aws_secret_access_key=secrets.token_hex(4),
        config=Config(proxies={}),
    )
    with contextlib.closing(client):
        yield client


@pytest.fixture
def sagemaker(moto_url: str, moto_client: Any) -> Iterator[SageMaker]:
    """An empty model registry."""
    made = SageMaker(moto_url, moto_client)
    made.clear()
    yield made
    made.clear()
