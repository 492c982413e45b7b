"""The page of settings is what the schema says."""

from __future__ import annotations

from pathlib import Path

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
