"""What was read of SageMaker so far, and the view that it makes. Not for several threads at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from router.alias import in_order
from router.errors import InvalidName
from router.model import (
    ModelName,
    RegisteredModel,
    RegistryProblem,
    RegistryView,
    Version,
    parse_model_name,
)
from router.registries.sagemaker.told import (
    REJECTED,
    Described,
    Listed,
    described,
    etags,
    overwritten,
    rejected,
    stages,
)

_CUT = 500


class Knowledge:
    """Packages that were described, and the last view.

    Attributes:
        view: None before the first reading.
        listed: what the view was made of; None where that is to be read again.
        descriptions: of groups.
        etags: by URI of model data, what SageMaker noted of it last. It stays the same dict.

    Args:
        registry: its name.
        format: of packages that do not tell theirs.
    """

    def __init__(self, registry: str, format: str) -> None:  # noqa: A002 - as the option is called
        self.view: RegistryView | None = None
        self.listed: tuple[Listed, ...] | None = None
        self.descriptions: Mapping[str, str] = {}
        self.etags: dict[str, str] = {}
        self._registry = registry
        self._format = format
        self._described: dict[str, Described] = {}

    def version(self, package: Listed) -> Version | None:
        """The version that a package is; None where it has to be described."""
        known = self._described.get(package.arn)
        if known is not None and known.listed == package:
            return known.version
        if package.approval == REJECTED:
            return rejected(self._registry, package, known.version if known is not None else None)
        return None

    def keep(self, package: Listed, told: Mapping[str, object]) -> None:
        """Take in what a package was described as."""
        self._described[package.arn] = described(self._registry, package, told, self._format)

    def forget(self, arn: str) -> None:
        """Have a package described again: a listing does not tell that properties changed."""
        self._described.pop(arn, None)
        self.listed = None

    def missing(self, found: Iterable[Listed], model: ModelName | None) -> Sequence[Listed]:
        """Packages that are known and were not found, of all groups or of one: the highest of each."""
        here = {package.arn for package in found}
        known = sorted((one.listed for one in self._described.values()), key=lambda one: one.version)
        gone = [one for one in known if one.arn not in here and model in (None, one.group)]
        return list({one.group: one for one in gone}.values())

    def take_in(
        self, found: tuple[Listed, ...], failures: Mapping[str, str], model: ModelName | None
    ) -> RegistryView:
        """Make a view of what was found; where that is one model only, the others stay as they are.

        Args:
            failures: why packages could not be described, by ARN.
        """
        before = self.view
        models: dict[ModelName, RegisteredModel] = {}
        problems: list[RegistryProblem] = []
        if model is None:
            here = {package.arn for package in found}
            self._described = {arn: known for arn, known in self._described.items() if arn in here}
        elif before is not None:
            models = {name: known for name, known in before.models.items() if name != model}
            problems = [problem for problem in before.problems if problem.subject != model]
        newest = etags(self._described.values())
        for group, packages in _by_group(found).items():
            last = None if before is None else before.models.get(ModelName(group))
            made, trouble = self._model(group, packages, failures, newest, last)
            problems += trouble
            if made is not None:
                models[made.name] = made
        self.listed = found if model is None and not failures else None
        self._note(newest)
        view = RegistryView(self._registry, dict(sorted(models.items())), tuple(problems))
        self.view = before if before is not None and before == view else view
        return self.view

    def _note(self, newest: Mapping[str, Described]) -> None:
        self.etags.update({uri: package.etag for uri, package in newest.items()})
        for uri in self.etags.keys() - newest.keys():
            del self.etags[uri]

    def _model(
        self,
        group: str,
        packages: Sequence[Listed],
        failures: Mapping[str, str],
        newest: Mapping[str, Described],
        last: RegisteredModel | None,
    ) -> tuple[RegisteredModel | None, list[RegistryProblem]]:
        try:
            name = parse_model_name(group)
        except InvalidName as error:
            return None, [RegistryProblem(group[:_CUT], f"cannot be served: {error}")]
        versions: list[Version] = []
        for package in packages:
            made = self.version(package)
            if made is None:
                outcome = "the model is left out" if last is None else "its last good reading goes on"
                why = failures.get(package.arn, "it was not described")
                return last, [RegistryProblem(name, f"version {package.version}: {why}; {outcome}")]
            known = self._described.get(package.arn)
            gone = overwritten(known, newest) if known is not None else ""
            versions.append(replace(made, unusable=gone) if gone and not made.unusable else made)
        model = RegisteredModel(
            self._registry,
            name,
            in_order(versions),
            stages=stages(packages),
            description=self.descriptions.get(group, ""),
        )
        return (last if last == model else model), []


def _by_group(found: Iterable[Listed]) -> dict[str, list[Listed]]:
    groups: dict[str, list[Listed]] = {}
    for package in found:
        groups.setdefault(package.group, []).append(package)
    return groups
