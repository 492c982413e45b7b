"""The page of settings is what the schema says."""

from __future__ import annotations

from pathlib import Path

from gateway.config import parse_config
from gateway.config.page import configuration_page

PAGE = Path(__file__).parents[3] / "docs/configuration.md"


def test_the_committed_page_is_current() -> None:
    """`make generate` writes it; a change of the schema alone is noticed here."""
    assert PAGE.read_text() == configuration_page()


def test_every_setting_of_a_section_is_on_it() -> None:
    """Nested keys are shown as they are written, lists and names of the operator's with their place."""
    page = configuration_page()

    for key in (
        "listen.inference",
        "registries.NAME.type",
        "path",
        "backends[].grpc",
        "limits.max_message",
        "threads",
    ):
        assert f"| `{key}` |" in page


def test_defaults_are_shown_as_they_are_written() -> None:
    """With their unit: what the page says of a limit can be copied into a file, and changes nothing there."""
    rows = [line.split("|") for line in configuration_page().splitlines() if line.startswith("| `limits.")]
    shown = {row[1].strip(" `").removeprefix("limits."): row[2].strip(" `") for row in rows}
    text = "limits:\n" + "".join(f"  {key}: {value}\n" for key, value in shown.items() if value)

    assert shown["max_buffered"] == "1GiB"
    assert parse_config(text, "s.yaml", Path(), {}).limits == parse_config("", "s.yaml", Path(), {}).limits
