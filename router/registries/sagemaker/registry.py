"""The SageMaker Model Registry: groups are models, packages are versions, approval is the stage.

A poll lists the packages of all groups, or of those that are listed by name, a hundred a call. Only what is
new or whose approval changed is described.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic

from router.errors import NotSupported, RegistryIncomplete, RegistryUnavailable
from router.model import ModelName, PointerKind, RegistryView, Version, VersionId
from router.ports import ANYTHING, Capability, Hint, NewVersion, RegistryChange, Source, Unknown
from router.registries import asking
from router.registries.globs import takes
from router.registries.looks import Asked, Looks
from router.registries.sagemaker.knowledge import Knowledge
from router.registries.sagemaker.packages import Denied, Missing, Packages
from router.registries.sagemaker.told import Listed
from router.registries.sagemaker.writing import pointer_problem, write_change

_AT_ONCE = 4
_CUT = 500
_MOST_NAMED = 20
"""Groups that are listed one by one, where the configuration names them; more cost less all together."""
_MOST_ASKED = 20
"""Versions that are missing from a list and asked for by name, before it is believed."""


@dataclass(frozen=True)
class Settings:
    """How SageMaker is asked.

    Attributes:
        poll, timeout: seconds.
        models: globs of the groups to take; none for all.
        format: of packages that do not tell theirs.
    """

    poll: float = 30.0
    timeout: float = 60.0
    models: tuple[str, ...] = ()
    format: str = ""


class SageMakerRegistry:
    """`ports.Registry` over SageMaker. Blocking calls have threads of their own.

    Args:
        connect: makes access to SageMaker; called again where it hangs.
        source: makes access to files on S3, given what SageMaker noted of each artifact.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        connect: Callable[[], Packages],
        source: Callable[[Mapping[str, str]], Source],
    ) -> None:
        self._name = name
        self._settings = settings
        self._connect = connect
        self._make_source = source
        asked = Asked(name, "SageMaker", settings.poll, settings.timeout)
        # Keys are read anew with the next connection.
        self._looks = Looks(asked, self._abandon, abandoned_by=Denied)
        self._takes = takes(settings.models)
        self._lock = threading.Lock()
        self._packages: Packages | None = None
        self._named = _named(settings.models)
        self._known = Knowledge(name, settings.format)
        self._asked = 0
        self._taken = 0

    @property
    def name(self) -> str:
        """Its key in the configuration."""
        return self._name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Approval is a stage, properties are tags."""
        return frozenset({Capability.STAGES, Capability.TAGS})

    async def read(self, hint: Hint = ANYTHING) -> RegistryView:
        """List all packages, or those of one group, and describe what is new.

        The very same view where nothing is. Raises RegistryUnavailable, RegistryIncomplete.
        """
        return await self._looks.read(partial(self._read, hint.model))

    async def get(self, model: ModelName, version: VersionId) -> Version | Unknown | None:
        """One version as SageMaker lists it now."""
        return await asking.get(self, model, version)

    async def resolve(self, model: ModelName, kind: PointerKind, name: str) -> VersionId | Unknown | None:
        """What the approvals say now."""
        return await asking.resolve(self, model, kind, name)

    def pointer_problem(self, kind: PointerKind, name: str) -> str:
        """What no approval status is."""
        return pointer_problem(kind, name)

    async def write(self, change: RegistryChange) -> None:
        """Set an approval status or a property. Raises as the port says."""
        await self._looks.call(partial(self._write, change))

    async def register(self, new: NewVersion, progress: Callable[[str], None] | None = None) -> Version:
        """Raises NotSupported: packages are made by SageMaker's own tools."""
        raise NotSupported(
            f"registry {self._name!r}: model packages are made by SageMaker's own tools",
            hint="create_model_package, or a pipeline's RegisterModel",
        )

    def webhook(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Hint]:
        """Raises NotSupported: SageMaker's events go to EventBridge."""
        raise NotSupported(f"registry {self._name!r}: SageMaker sends no notices to webhooks")

    def source(self, uri: str) -> Source | None:
        """Access to files on S3 with this registry's keys; None for what is not on S3."""
        return self._make_source(self._known.etags) if uri.startswith("s3://") else None

    async def close(self) -> None:
        """Give back connections."""
        self._abandon()

    def changes(self) -> AsyncIterator[Hint]:
        """Yield once each `poll`, less often where it is away; see `Looks.changes`."""
        return self._looks.changes()

    def _use(self) -> Packages:
        with self._lock:
            self._packages = self._packages or self._connect()
            return self._packages

    def _abandon(self) -> None:
        with self._lock:
            packages, self._packages = self._packages, None
        if packages is not None:
            packages.close()

    def _until(self) -> float:
        return monotonic() + self._settings.timeout

    def _write(self, change: RegistryChange) -> None:
        arn = write_change(self._use(), self._name, change, self._until())
        with self._lock:
            self._known.forget(arn)

    def _list(self, packages: Packages, until: float, model: ModelName | None) -> tuple[Listed, ...]:
        found: list[Listed] = []
        for group in (model,) if model is not None else self._named or ("",):
            with contextlib.suppress(Missing):
                found += packages.list(until, group)
        wanted = [package for package in found if self._takes(package.group)]
        return tuple(sorted(wanted, key=lambda package: (package.group, package.version)))

    def _check_gone(
        self, packages: Packages, found: Sequence[Listed], model: ModelName | None, until: float
    ) -> None:
        """Ask for what is missing from a list by name: half a list deletes nothing.

        Raises RegistryUnavailable where one of them is there.
        """
        with self._lock:
            missing = self._known.missing(found, model)
        for one in missing[:_MOST_ASKED]:
            with contextlib.suppress(Missing):
                packages.describe(one.arn, until)
                raise RegistryUnavailable(
                    f"registry {self._name!r}: version {one.version} of {one.group} was not listed, "
                    "and it is there"
                )

    def _look_up_groups(self, packages: Packages, found: Sequence[Listed], until: float) -> None:
        """Descriptions of new groups; they never change. Nothing depends on them."""
        if {package.group for package in found} <= self._known.descriptions.keys():
            return
        with contextlib.suppress(RegistryUnavailable):
            told = packages.descriptions(until)
            with self._lock:
                self._known.descriptions = {**self._known.descriptions, **told}

    def _read(self, model: ModelName | None) -> RegistryView:
        packages, until = self._use(), self._until()
        with self._lock:
            if self._known.view is None:
                model = None
            self._asked += 1
            turn = self._asked
        found = self._list(packages, until, model)
        with self._lock:
            if self._known.view is not None and found == self._known.listed:
                return self._known.view
        self._check_gone(packages, found, model, until)
        self._look_up_groups(packages, found, until)
        failures = self._describe(packages, found, until)
        with self._lock:
            if self._known.view is not None and turn < self._taken:
                return self._known.view  # a reading that began later was taken in already
            self._taken = turn
            return self._known.take_in(found, failures, model)

    def _describe(self, packages: Packages, found: Sequence[Listed], until: float) -> Mapping[str, str]:
        """Describe what is new, the newest first; returns why it failed, by ARN. What is known is kept."""
        with self._lock:
            new = [package for package in found if self._known.version(package) is None]
            first = self._known.view is None
        if not new:
            return {}
        new.sort(key=lambda package: -package.version)
        with ThreadPoolExecutor(min(_AT_ONCE, len(new)), "sagemaker-packages") as pool:
            tried = pool.map(lambda package: self._describe_one(packages, package, until), new)
            failures = {
                package.arn: problem
                for package, problem in zip(new, tried, strict=True)
                if problem is not None
            }
        done = len(new) - len(failures)
        if first and failures and done and monotonic() > until:
            raise RegistryIncomplete(f"{len(found) - len(failures)} of {len(found)} packages are described")
        if first and failures and not done:
            raise next(iter(failures.values()))
        return {arn: str(problem)[:_CUT] for arn, problem in failures.items()}

    def _describe_one(self, packages: Packages, package: Listed, until: float) -> RegistryUnavailable | None:
        if monotonic() > until:
            return RegistryUnavailable(f"registry {self._name!r}: not all packages were described in time")
        try:
            told = packages.describe(package.arn, until)
        except RegistryUnavailable as problem:
            return problem
        except Missing:
            return RegistryUnavailable(f"version {package.version} went away while it was read")
        with self._lock:
            self._known.keep(package, told)
        return None


def _named(globs: Sequence[str]) -> tuple[str, ...]:
    """The groups, where all of a few globs are plain names."""
    plain = all(not set(glob) & set("*?[") for glob in globs)
    return tuple(dict.fromkeys(globs)) if plain and len(globs) <= _MOST_NAMED else ()
