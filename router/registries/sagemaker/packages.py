"""Calls of SageMaker's API, bounded in time; where it says that there are too many, they come slower."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from router.errors import RegistryRefused, RegistryUnavailable
from router.registries.sagemaker.told import Listed, listed

_MOST_PAGES = 200
_PAGE = 100
_CUT = 500
_SERVERS_FAULT = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_SLOWER = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
_MISSING = {"ResourceNotFound", "ResourceNotFoundException"}
_MISSING_TEXT = ("does not exist", "not found", "could not be found")
_DENIED = {
    *("AccessDeniedException", "AccessDenied", "NotAuthorized", "UnrecognizedClientException"),
    *("ExpiredTokenException", "ExpiredToken", "InvalidClientTokenId", "InvalidSignatureException"),
    *("SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "OptInRequired"),
}
_FORBIDDEN = {"AccessDeniedException", "AccessDenied", "NotAuthorized"}


class Missing(Exception):
    """There is no such group or package."""


class Denied(RegistryUnavailable):
    """The keys do not open it; others may."""


class Packages:
    """Model packages by a boto3 client. Blocking, for several threads.

    Args:
        name: of the registry, for messages.
        client: boto3's for SageMaker, which tries nothing again by itself.
        closing: gives back the connections; what waits on them then fails.
    """

    def __init__(
        self,
        name: str,
        client: Any,  # noqa: ANN401 - boto3 has no types
        closing: Callable[[], None],
    ) -> None:
        self._name = name
        self._client = client
        self._closing = closing

    def list(self, until: float, group: str = "") -> Sequence[Listed]:
        """All versions of all groups, or of one, by 100 a call.

        Raises:
            Missing: there is no such group.
            RegistryUnavailable.
        """
        found: list[Listed] = []
        arguments = {"ModelPackageGroupName": group} if group else {"ModelPackageType": "Versioned"}
        for _ in range(_MOST_PAGES):
            told = self._call("list_model_packages", until, {"MaxResults": _PAGE, **arguments})
            for summary in self._whole(told, "ModelPackageSummaryList"):
                package = listed(summary)
                if package is not None and (not group or package.group == group):
                    found.append(package)
            if not told.get("NextToken"):
                return found
            arguments["NextToken"] = told["NextToken"]
        raise RegistryUnavailable(
            f"registry {self._name!r}: there are more than {_MOST_PAGES * _PAGE} packages"
        )

    def descriptions(self, until: float) -> Mapping[str, str]:
        """The descriptions of all groups, by 100 a call. Raises RegistryUnavailable."""
        found: dict[str, str] = {}
        arguments: dict[str, object] = {"MaxResults": _PAGE}
        for _ in range(_MOST_PAGES):
            told = self._call("list_model_package_groups", until, arguments)
            for group in self._whole(told, "ModelPackageGroupSummaryList"):
                name = group.get("ModelPackageGroupName")
                if isinstance(name, str):
                    found[name] = str(group.get("ModelPackageGroupDescription", ""))
            if not told.get("NextToken"):
                break
            arguments["NextToken"] = told["NextToken"]
        return found

    def describe(self, arn: str, until: float) -> Mapping[str, object]:
        """All that SageMaker says of one package. Raises Missing, RegistryUnavailable."""
        told: Mapping[str, object] = self._call("describe_model_package", until, {"ModelPackageName": arn})
        if told.get("ModelPackageArn") != arn:
            raise RegistryUnavailable(f"registry {self._name!r}: what it says of {arn[:_CUT]} is not whole")
        return told

    def update(self, arn: str, until: float, **change: object) -> None:
        """Change a package. Raises Missing, RegistryRefused, RegistryUnavailable."""
        self._call("update_model_package", until, {"ModelPackageArn": arn, **change}, writing=True)

    def close(self) -> None:
        """Give back connections."""
        self._closing()

    def _whole(self, told: Mapping[str, Any], part: str) -> Sequence[Mapping[str, object]]:
        """A list of an answer; without it that is no answer, and not one that says that nothing is there."""
        found = told.get(part)
        if not isinstance(found, list):
            raise RegistryUnavailable(f"registry {self._name!r}: an answer without {part}")
        return found

    def _call(
        self, operation: str, until: float, arguments: Mapping[str, object], *, writing: bool = False
    ) -> Any:  # noqa: ANN401 - boto3's
        pause = _FIRST_PAUSE
        while True:
            try:
                return getattr(self._client, operation)(**arguments)
            except Exception as error:
                waited = pause * random.uniform(0.5, 1.0)  # noqa: S311 - callers come apart
                if not _may_pass(error) or time.monotonic() + waited > until:
                    self._fail(operation, error, writing=writing)
            time.sleep(waited)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _fail(self, operation: str, error: Exception, *, writing: bool) -> NoReturn:
        code, status = _code(error), _status(error)
        text = str(error)
        if code in _MISSING or (code == "ValidationException" and any(one in text for one in _MISSING_TEXT)):
            raise Missing(text[:_CUT]) from error
        message = f"registry {self._name!r}: {operation}: {text}"[:_CUT]
        denied = code in _DENIED or status in (401, 403) or type(error).__name__ == "NoCredentialsError"
        hint = "look at its keys and what they may do" if denied else ""
        if writing and status and not _may_pass(error) and (not denied or code in _FORBIDDEN):
            raise RegistryRefused(message, hint=hint) from error
        if denied:
            raise Denied(message, hint=hint) from error
        raise RegistryUnavailable(message) from error


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed a moment later."""
    return _code(error) in _SLOWER or _status(error) >= _SERVERS_FAULT


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _status(error: Exception) -> int:
    """HTTP's, or 0 where there was no answer."""
    return int(getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
