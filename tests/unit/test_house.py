"""What the files around the code promise: versions, targets, pins, one importer of the extension."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import gateway
from gateway.cli.tree import commands

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")


def read(name: str) -> str:
    """Text of a file in the top folder or below."""
    return (ROOT / name).read_text(encoding="utf-8")


def normal(distribution: str) -> str:
    """A distribution's name in the spelling that all spellings share."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imports(source: str, module: str) -> bool:
    """Whether a module's source imports `module` or something below it, by whatever form of import."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            parent = "gateway" if node.level else ""
            base = ".".join(filter(None, [parent, node.module]))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return any(f"{name}.".startswith(f"{module}.") for name in names)


def importers(module: str) -> set[str]:
    """Files of the two packages that import a module, with folders shortened to their first two names."""
    files = [path for package in ("gateway", "router") for path in (ROOT / package).rglob("*.py")]
    found = [path.relative_to(ROOT) for path in files if imports(path.read_text(), module)]
    return {"/".join(path.parts[:2]) for path in found}


def test_one_version() -> None:
    """The distribution, the package, the crates and the newest changelog entry name one version."""
    released = re.findall(r"^## \[(\d[^\]]*)\]", read("CHANGELOG.md"), re.MULTILINE)
    crates = tomllib.loads(read("gateway/dataplane/Cargo.toml"))["workspace"]["package"]["version"]

    assert {gateway.__version__, PROJECT["project"]["version"], released[0], crates} == {gateway.__version__}


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_real_targets(page: str) -> None:
    """Every `make TARGET` that a page shows is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    shown = set(re.findall(r"(?:`|^ *)make ([a-z-]+)", read(page), re.MULTILINE))

    assert shown <= targets
    assert page != "README.md" or {"run", "test"} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_real_commands(page: str) -> None:
    """Every `stagegate COMMAND` that a page shows is one of the command line."""
    tree = typer.main.get_command(commands)
    assert isinstance(tree, TyperGroup)
    shown = set(re.findall(r"(?:`|/bin/)stagegate ([a-z-]+)", read(page)))

    assert shown <= set(tree.commands)
    assert page != "README.md" or {"up", "infer", "route", "status"} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_pages_link_to_real_files(page: str) -> None:
    """Every relative link of a page leads to a file that exists."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(page))

    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_has_its_line_of_help() -> None:
    """`make` alone lists every target that a person would type."""
    makefile = read("Makefile")
    phony = set(re.findall(r"^\.PHONY: ([a-z-]+)", makefile, re.MULTILINE)) - {"help"}
    helped = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))

    assert phony == helped


def test_every_requirement_is_pinned() -> None:
    """constraints.txt has one exact version for each package that pyproject.toml asks for, and no address."""
    project = PROJECT["project"]
    groups = [PROJECT["build-system"]["requires"], project["dependencies"]]
    groups += project["optional-dependencies"].values()
    wanted = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for group in groups for line in group}
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line)] == []
    assert wanted - {normal(line.split("==")[0]) for line in lines} == set()


def test_one_importer_of_the_extension() -> None:
    """Only gateway/bridge.py imports the extension module."""
    assert importers("gateway._dataplane") == {"gateway/bridge.py"}


def test_importers_of_the_generated_code() -> None:
    """Only the admin API and the command line, which speaks it, know the generated classes."""
    parts = {name.removeprefix("gateway/").split("/")[0].split(".")[0] for name in importers("protos.gen")}

    assert parts == {"admin", "admin_messages", "cli"}


@pytest.mark.parametrize(
    "source",
    [
        "import gateway._dataplane",
        "from gateway import _dataplane",
        "from gateway._dataplane import Core",
        "from . import _dataplane as native",
        "def later() -> None:\n    from gateway._dataplane import Core",
    ],
)
def test_every_form_of_import_is_seen(source: str) -> None:
    """The two checks above know each way to write an import."""
    assert imports(source, "gateway._dataplane")


def test_a_longer_name_is_another_module() -> None:
    """A module whose name only begins like another is not taken for it."""
    assert not imports("from gateway._dataplane_notes import Core", "gateway._dataplane")
