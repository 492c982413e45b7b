"""What SageMaker's answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from router.registries.sagemaker.told import (
    Described,
    Listed,
    described,
    etags,
    listed,
    overwritten,
    property_value,
    rejected,
    stages,
)

URI = "s3://models/fraud/model.tar.gz"


def a_package(version: int = 1, approval: str = "Approved", **more: Any) -> Listed:
    """An entry of a listing, finished unless it is said otherwise."""
    return Listed(
        **{
            "arn": f"arn/fraud/{version}",
            "group": "fraud",
            "version": version,
            "approval": approval,
            "status": "Completed",
            "created": float(version),
            **more,
        }
    )


def told(*containers: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
    """What a package is described as."""
    properties = {"stagegate.format": "onnx"}
    return {
        "InferenceSpecification": {"Containers": list(containers or ({"ModelDataUrl": URI},))},
        "CustomerMetadataProperties": properties,
        **more,
    }


def a_described(version: int, etag: str, uri: str = URI) -> Described:
    """A package whose model data was noted."""
    return described("sm", a_package(version), told({"ModelDataUrl": uri, "ModelDataETag": etag}))


def test_the_highest_in_a_stage_is_named() -> None:
    """Of all that are approved, and of all that wait; what is rejected is in no stage."""
    packages = [
        *(a_package(1), a_package(3), a_package(2)),
        *(a_package(4, "PendingManualApproval"), a_package(5, "PendingManualApproval")),
        a_package(6, "Rejected"),
    ]

    assert stages(packages) == {"production": "3", "staging": "5"}
    assert stages([a_package(1, "Rejected"), a_package(2, "")]) == {}


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Failed", "Deleting"])
def test_what_is_not_finished_is_in_no_stage(status: str) -> None:
    """Whatever was said of its approval."""
    assert stages([a_package(1), a_package(2, status=status)]) == {"production": "1"}


@pytest.mark.parametrize(
    ("life", "status", "approval", "expected"),
    [
        ("qa", "Approved", "PendingManualApproval", {"production": "1", "qa": "2"}),
        ("qa", "APPROVED", "Approved", {"production": "1", "qa": "2"}),
        ("production", "Approved", "PendingManualApproval", {"production": "2"}),
        ("production", "PendingApproval", "Approved", {"production": "1"}),
        ("development", "InProgress", "Approved", {"production": "1"}),
        ("production", "Approved", "Rejected", {"production": "1"}),
    ],
)
def test_a_life_cycle_goes_before_the_approval(
    life: str, status: str, approval: str, expected: Mapping[str, str]
) -> None:
    """A version that has one is in that stage and no other, once it is approved in it."""
    package = a_package(2, approval, life=life, life_status=status)

    assert stages([a_package(1), package]) == expected


def test_a_listing_is_understood() -> None:
    """What is in no group is left out."""
    entry = {
        "ModelPackageGroupName": "fraud",
        "ModelPackageVersion": 7,
        "ModelPackageArn": "arn/fraud/7",
        "ModelApprovalStatus": "Approved",
        "ModelPackageStatus": "Completed",
        "ModelLifeCycle": {"Stage": "PreProduction", "StageStatus": "Approved"},
    }
    found = listed(entry)

    assert found == a_package(7, created=None, life="preproduction", life_status="Approved")
    for key in ("ModelPackageGroupName", "ModelPackageVersion", "ModelPackageArn"):
        assert listed({name: value for name, value in entry.items() if name != key}) is None


def test_properties_are_metrics_tags_format_and_digest() -> None:
    """A metric that is no number is left out."""
    properties = {
        "stagegate.format": "triton",
        "stagegate.digest": "sha256:abc",
        "metrics.auc": "0.93",
        "metrics.loss": "nan",
        "metrics.note": "good",
        "metrics.": "1",
        "team": "risk",
    }
    version = described("sm", a_package(), told(CustomerMetadataProperties=properties)).version

    assert (version.format, version.digest, version.unusable) == ("triton", "sha256:abc", "")
    assert dict(version.metrics) == {"auc": 0.93}
    assert dict(version.tags) == {
        "stagegate.format": "triton",
        "stagegate.digest": "sha256:abc",
        "team": "risk",
    }


def test_where_it_came_from_is_lineage() -> None:
    """The commit and what made it, the image, and where reports about it lie."""
    quality = {"Statistics": {"ContentType": "application/json", "S3Uri": "s3://reports/q.json"}}
    version = described(
        "sm",
        a_package(life="qa", life_status="OnHold"),
        told(
            {"ModelDataUrl": URI, "Image": "image:1", "Framework": "PYTORCH", "FrameworkVersion": "2.1"},
            MetadataProperties={
                "CommitId": "abc",
                "Repository": "git@host:fraud",
                "GeneratedBy": "pipeline/1",
                "ProjectId": "p-1",
            },
            ModelMetrics={"ModelQuality": quality, "Bias": {}},
            ModelPackageDescription="better",
            ApprovalDescription="looked at",
        ),
    ).version

    assert dict(version.lineage) == {
        "commit": "abc",
        "repository": "git@host:fraud",
        "run": "pipeline/1",
        "project": "p-1",
        "image": "image:1",
        "framework": "PYTORCH",
        "frameworkversion": "2.1",
        "ModelQuality.Statistics": "s3://reports/q.json",
    }
    assert dict(version.tags) == {
        "stagegate.format": "onnx",
        "description": "better",
        "approval_description": "looked at",
        "life_cycle": "qa: OnHold",
    }


def test_the_artifact_is_the_model_data() -> None:
    """A file, or what is below a prefix."""
    prefix = {"S3DataSource": {"S3Uri": "s3://models/fraud/7/", "S3DataType": "S3Prefix"}}

    assert described("sm", a_package(), told()).version.artifact == URI
    assert described("sm", a_package(), told({"ModelDataSource": prefix})).version.artifact == (
        "s3://models/fraud/7/"
    )


@pytest.mark.parametrize(
    ("properties", "default", "framework", "expected"),
    [
        ({"stagegate.format": "python"}, "onnx", "ONNX", "python"),
        ({}, "torchscript", "ONNX", "torchscript"),
        ({}, "", "ONNX", "onnx"),
        ({}, "", "XGBOOST", ""),
    ],
)
def test_the_format(properties: Mapping[str, str], default: str, framework: str, expected: str) -> None:
    """The package's own word goes before the configuration's, and that before its framework."""
    container = {"ModelDataUrl": URI, "Framework": framework}
    version = described(
        "sm", a_package(), told(container, CustomerMetadataProperties=properties), default
    ).version

    assert version.format == expected
    assert ("tells no format" in version.unusable) == (expected == "")


@pytest.mark.parametrize(
    ("package", "answer", "why"),
    [
        (a_package(status="Failed"), told(), "its registration is Failed"),
        (a_package(approval="Rejected"), told(), "it was rejected"),
        (a_package(), told({"Image": "image:1"}), "names no model data"),
        (a_package(), {"InferenceSpecification": {"Containers": []}}, "names no model data"),
        (a_package(), {}, "names no model data"),
        (a_package(), told({"ModelDataUrl": URI}, {"ModelDataUrl": URI}), "pipeline of 2 containers"),
    ],
)
def test_what_cannot_be_served_says_why(package: Listed, answer: Mapping[str, Any], why: str) -> None:
    """It is listed all the same."""
    assert why in described("sm", package, answer).version.unusable


def test_a_rejected_version_keeps_what_is_known_of_it() -> None:
    """Nobody is asked about it."""
    before = described("sm", a_package(), told()).version
    after = rejected("sm", a_package(approval="Rejected"), before)
    unknown = rejected("sm", a_package(approval="Rejected"), None)

    assert (after.artifact, after.unusable) == (URI, "it was rejected")
    assert (unknown.version, unknown.artifact, unknown.unusable) == ("1", "", "it was rejected")


def test_model_data_that_was_overwritten_is_told() -> None:
    """The newest package says what is there; one of the same bytes is as good."""
    one, two, three = a_described(1, '"a"'), a_described(2, "b"), a_described(3, "b")
    elsewhere, silent = a_described(4, "a", "s3://models/other"), a_described(5, "")
    newest = etags([two, one, three, elsewhere, silent])

    assert {uri: package.etag for uri, package in newest.items()} == {URI: "b", "s3://models/other": "a"}
    assert overwritten(one, newest) == "its model data was overwritten by fraud version 3"
    assert [overwritten(each, newest) for each in (two, three, elsewhere, silent)] == [""] * 4


def test_values_of_properties() -> None:
    """SageMaker takes a few characters, and not many of them."""
    assert property_value("bad accuracy, see #7!") == "bad accuracy_ see _7_"
    assert property_value("Größe 1.5 a/b=c+d-e@f:g_h") == "Größe 1.5 a/b=c+d-e@f:g_h"
    assert len(property_value("x" * 300)) == 256
