"""The one error tree. It carries data and no status codes; `gateway.status` turns it into answers.

StagegateError
|-- InvalidInput               the caller's words are wrong; nothing was changed
|   |-- InvalidName            a model, arm, alias or stage name that cannot be one
|   |-- InvalidReference       `model@ref` and `model_version` disagree, or a ref is malformed
|   |-- InvalidRoute           weights, arms or references of a route that cannot hold
|   |-- ContractBroken         a version that does not take and give what the one before it did
|   |-- WebhookRefused         a notice that its registry did not send, or not now
|   `-- ConfigInvalid          a configuration file; lists every problem with line and path
|-- NotFound                   well formed, but there is no such thing
|   |-- ModelNotFound
|   |-- VersionNotFound        the reference names no version of that model
|   |-- RouteNotFound
|   `-- BackendNotFound
|-- Conflict                   somebody else changed it first; carries the current revision
|-- NotSupported               this part cannot do that here; says what can
|-- RegistryRefused            a registry answered, and will not do that; trying again is no use
|-- ArtifactError              files of a version that cannot be used
|   |-- ArtifactMissing
|   |-- ArtifactRefused        the policy does not allow it: its place, its kind, its signature
|   |-- ArtifactChanged        it was replaced while it was fetched; carries no half of either
|   |-- DigestMismatch
|   |-- NoSpace                it would not fit on the disk, or into the cache
|   `-- UnsupportedFormat
|-- InvalidAnswer              a backend said OK and gave what is no answer
|-- LoadFailed                 Triton refused or did not finish a load
`-- Unavailable                a part we depend on does not answer; trying again may help
    |-- RegistryUnavailable
    |-- ArtifactUnavailable    a store of files does not answer, or stopped in the middle
    |-- BackendUnavailable
    |   `-- BackendUnable    it answers, and can load nothing now, whatever it is asked for
    `-- StateUnavailable
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class StagegateError(Exception):
    """Base of all errors that users may see.

    Attributes:
        message: one sentence that names the field or object.
        hint: what to do next, or "".
        retry: whether the same call may succeed later without a change by the caller.
    """

    retry = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(StagegateError):
    """The caller's words are wrong; nothing was changed."""


class InvalidName(InvalidInput):
    """A name that breaks the rule for its kind."""


class InvalidReference(InvalidInput):
    """A malformed reference, or two references in one request that disagree."""


class InvalidRoute(InvalidInput):
    """A route that cannot be served as written."""


class ContractBroken(InvalidInput):
    """A version that does not take and give what the one that it is to replace does.

    Attributes:
        differences: one sentence each.
    """

    def __init__(self, message: str, *, differences: Sequence[str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.differences = tuple(differences)


class WebhookRefused(InvalidInput):
    """A notice whose signature or time is wrong, or that came before; nothing was done about it."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration file.

    Attributes:
        path: where in the document, such as `backends[0].grpc`.
        line: 1-based line in the file, 0 where there is none (environment override).
        message: what is wrong and what would be right.
    """

    path: str
    line: int
    message: str


class ConfigInvalid(InvalidInput):
    """A configuration with at least one problem; all of them are listed."""

    def __init__(self, source: str, problems: Sequence[ConfigProblem]) -> None:
        count = len(problems)
        super().__init__(f"{source}: {count} problem{'' if count == 1 else 's'}")
        self.source = source
        self.problems = tuple(problems)


class NotFound(StagegateError):
    """Well formed, but there is no such thing."""


class ModelNotFound(NotFound):
    """No registry and no backend has a model of that name."""


class VersionNotFound(NotFound):
    """The model exists, the referenced version, alias or stage does not."""


class RouteNotFound(NotFound):
    """The model has no explicit route."""


class BackendNotFound(NotFound):
    """No backend of that name is configured."""


class Conflict(StagegateError):
    """Compare-and-set failed: the store moved on since the caller read it."""

    retry = True

    def __init__(self, message: str, *, current_revision: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.current_revision = current_revision


class NotSupported(StagegateError):
    """This adapter or backend cannot do that."""


class RegistryRefused(StagegateError):
    """A registry answered that it will not do what was asked."""


class ArtifactError(StagegateError):
    """The files of a version cannot be used."""


class ArtifactMissing(ArtifactError):
    """The artifact does not exist where the registry says."""


class ArtifactRefused(ArtifactError):
    """The policy does not allow it; no byte of it was fetched."""


class ArtifactChanged(ArtifactError):
    """Somebody replaced it while it was fetched; the next try sees the new one whole."""

    retry = True


class NoSpace(ArtifactError):
    """There is no room for it; nothing of it was left behind."""


class DigestMismatch(ArtifactError):
    """The files do not hash to the digest that the registry names."""


class UnsupportedFormat(ArtifactError):
    """No runtime here can serve that format."""


class InvalidAnswer(StagegateError):
    """A backend said OK, and what it gave is no answer."""


class LoadFailed(StagegateError):
    """A backend refused a load, or did not finish it in time."""


class Unavailable(StagegateError):
    """A part we depend on does not answer."""

    retry = True


class RegistryUnavailable(Unavailable):
    """A registry cannot be read now; what was read before still holds."""


class RegistryIncomplete(RegistryUnavailable):
    """A registry holds more than one reading takes in; what it did read is kept, and the next one goes on."""


class ArtifactUnavailable(Unavailable):
    """A store of files does not answer, is too slow, or stopped in the middle."""


class BackendUnavailable(Unavailable):
    """A Triton does not answer."""


class BackendUnable(BackendUnavailable):
    """A Triton answers, and can load nothing now: no shared memory, no disk, or it loads for nobody."""


class StateUnavailable(Unavailable):
    """The state store cannot be read or written now."""
