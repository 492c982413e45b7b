"""The example of a package with a type of registry, installed as pip does it: by metadata on the path."""

from __future__ import annotations

import importlib
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_registry"


def install(site: Path) -> str:
    """Put the example's modules and metadata into a folder, as a wheel of it has them; its module's name."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    told = project["project"]
    metadata = site / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in told["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    (module,) = project["tool"]["setuptools"]["py-modules"]
    shutil.copy(EXAMPLE / f"{module}.py", site)
    return str(module)


@pytest.fixture
def third_party_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example is installed for the time of a test."""
    module = install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    yield
    sys.modules.pop(module, None)
