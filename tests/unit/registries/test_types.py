"""Which types of registries there are, and how one that cannot be had is told."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from router.errors import InvalidInput, NotSupported
from router.registries import FolderRegistry, known_types, open_registry, registry_type, types
from router.registries.options import GROUP, RegistryType
from router.registries.types import BUILT_IN, Place
from tests.fakes.registry import FakeRegistry


def _open(name: str, options: Mapping[str, object]) -> FakeRegistry:
    return FakeRegistry(name)


def _lacks(name: str, options: Mapping[str, object]) -> FakeRegistry:
    raise ModuleNotFoundError("No module named 'acme'")


OURS = RegistryType("theirs", (), _open)
LACKS = RegistryType("theirs", (), _lacks)
NONSENSE = "no type"


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What installed packages offer; a test appends."""
    monkeypatch.setitem(sys.modules, "acme", SimpleNamespace(OURS=OURS, LACKS=LACKS, NONSENSE=NONSENSE))
    entries: list[EntryPoint] = []
    monkeypatch.setattr(types, "_offered", lambda: tuple(entries))
    return entries


def entry(name: str, value: str) -> EntryPoint:
    """What package `acme` offers under a name."""
    return EntryPoint(name, f"acme:{value}", GROUP)


def test_a_registry_is_opened_by_its_type(tmp_path: Path) -> None:
    """By the adapter that its type names, under its own name."""
    registry = open_registry("local", "folder", {"path": tmp_path})

    assert isinstance(registry, FolderRegistry)
    assert (registry.name, registry.path) == ("local", tmp_path)


@pytest.mark.parametrize("kind", [kind for kind, place in BUILT_IN.items() if types._exists(place)])
def test_each_type_of_ours_exports_what_it_declares(kind: str) -> None:
    """Also where the packages that it needs are not installed: only `open` asks for them."""
    found = registry_type(kind)
    names = [option.name for option in found.options]

    assert found.about
    assert len(names) == len(set(names))
    assert "type" not in names
    assert all(option.about for option in found.options)


def test_a_type_that_nobody_has_is_told_with_the_nearest(offered: list[EntryPoint]) -> None:
    """Those that packages offer are among the known ones."""
    offered.append(entry("acme", "OURS"))

    with pytest.raises(InvalidInput, match=r"'foldr' is no type of registry .did you mean 'folder'"):
        registry_type("foldr")
    with pytest.raises(InvalidInput, match=r"known are folder.*acme"):
        registry_type("zzz")


def test_a_type_without_its_module_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the table, and its adapter is not a part of this version."""
    monkeypatch.setattr(types, "BUILT_IN", {**BUILT_IN, "later": Place("router.registries.no_such_module")})

    assert "later" not in known_types()
    with pytest.raises(NotSupported, match=r"'later' is not served by this version .use folder"):
        registry_type("later")


def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the module asks for it when it is imported, and where it asks when a registry is opened."""
    monkeypatch.setattr(types, "BUILT_IN", {"acme": Place("acme", "acme")})
    monkeypatch.setattr(types, "_exists", lambda place: True)
    monkeypatch.setattr(importlib, "import_module", lambda module: SimpleNamespace(TYPE=LACKS))

    with pytest.raises(NotSupported, match=r"lacks a package.*pip install 'stagegate\[acme\]'"):
        open_registry("x", "acme", {})

    def fail(module: str) -> object:
        raise ModuleNotFoundError("No module named 'acme'")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(NotSupported, match=r"lacks a package.*pip install 'stagegate\[acme\]'"):
        registry_type("acme")


def test_a_package_adds_a_type(offered: list[EntryPoint]) -> None:
    """By an entry point, and it is opened like ours."""
    offered.append(entry("acme", "OURS"))

    assert known_types()[-1] == "acme"
    assert registry_type("acme") is OURS
    assert open_registry("x", "acme", {}).name == "x"


def test_a_package_cannot_take_the_name_of_a_type_of_ours(offered: list[EntryPoint]) -> None:
    """What a configuration means must not hang on what else is installed."""
    offered.append(entry("folder", "OURS"))

    assert registry_type("folder") is not OURS
    assert known_types().count("folder") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NONSENSE", "it is str, no RegistryType"),
        ("MISSING", "cannot be used: AttributeError"),
    ],
)
def test_a_broken_type_of_a_package_concerns_only_itself(
    offered: list[EntryPoint], value: str, message: str
) -> None:
    """It is named when it is asked for; others go on."""
    offered.append(entry("broken", value))
    offered.append(entry("acme", "OURS"))

    with pytest.raises(InvalidInput, match=message):
        registry_type("broken")
    assert registry_type("acme") is OURS


def test_a_type_offered_by_two_packages_is_refused(offered: list[EntryPoint]) -> None:
    """Nobody could say which one is meant."""
    offered += [entry("acme", "OURS"), entry("acme", "LACKS")]

    with pytest.raises(InvalidInput, match="'acme' is offered twice"):
        registry_type("acme")


def test_a_package_s_own_missing_package_is_told(offered: list[EntryPoint]) -> None:
    """As one sentence, not as a trace."""
    offered.append(entry("acme", "LACKS"))

    with pytest.raises(NotSupported, match=r"registry 'x': type 'acme' lacks a package"):
        open_registry("x", "acme", {})
