"""Sections of registries are typed by the keys that their type declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import GatewayConfig, SecretReader, describe_problems, parse_config, registries
from router.errors import ConfigInvalid, InvalidInput, NotSupported, RegistryUnavailable
from router.registries.options import Option, OptionKind, RegistryType
from tests.fakes.registry import FakeRegistry

BASE = Path("/base")


def _positive(value: object) -> None:
    if not isinstance(value, float) or value <= 0:
        raise ValueError("must be longer than nothing")


def _open(name: str, options: Mapping[str, object]) -> FakeRegistry:
    return FakeRegistry(name)


SHOP = RegistryType(
    "a shop",
    (
        Option("uri", OptionKind.TEXT, "where", required=True),
        Option("models", OptionKind.TEXTS, "which", default=("*",)),
        Option("names", OptionKind.NAMES, "as what", default={}),
        Option("poll", OptionKind.DURATION, "how often", default=5.0, check=_positive),
        Option("part", OptionKind.SIZE, "bytes"),
        Option("pages", OptionKind.WHOLE, "how many"),
        Option("verify", OptionKind.FLAG, "whether", default=True),
        Option("cache", OptionKind.PATH, "where to"),
        Option("token", OptionKind.SECRET, "who we are"),
    ),
    _open,
)


@pytest.fixture(autouse=True)
def _shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One type, so that what is tested does not hang on which others there are."""

    def find(kind: str) -> RegistryType:
        if kind == "shop":
            return SHOP
        if kind == "later":
            raise NotSupported("registry type 'later' is not served by this version", hint="use shop")
        raise InvalidInput(f"{kind!r} is no type of registry", hint="did you mean 'shop'?")

    monkeypatch.setattr(registries, "registry_type", find)
    monkeypatch.setattr(registries, "known_types", lambda: ("shop",))


def read(text: str, environ: Mapping[str, str] | None = None) -> GatewayConfig:
    """A configuration of that text."""
    return parse_config(text, "f.yaml", BASE, environ or {})


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is told of that text, a line each."""
    with pytest.raises(ConfigInvalid) as caught:
        read(text, environ)
    return list(describe_problems(caught.value))


def test_every_kind_of_key_reaches_the_adapter_typed() -> None:
    """As the option's kind says; the secret is another test's."""
    config = read(
        """\
registries:
  prod:
    type: shop
    uri: http://shop:1
    models: [fraud, digits*]
    names: {fraud: org/fraud}
    poll: 250ms
    part: 8MiB
    pages: 7
    verify: false
    cache: ./c
"""
    )
    section = config.registries["prod"]

    assert section.type == "shop"
    assert section.options == {
        "uri": "http://shop:1",
        "models": ("fraud", "digits*"),
        "names": {"fraud": "org/fraud"},
        "poll": 0.25,
        "part": 8 << 20,
        "pages": 7,
        "verify": False,
        "cache": BASE / "c",
        "token": None,
    }


def test_what_is_not_given_is_the_default() -> None:
    """As the type declares it."""
    options = read("registries: {prod: {type: shop, uri: u}}").registries["prod"].options

    assert (options["models"], options["poll"], options["verify"], options["part"]) == (
        ("*",),
        5.0,
        True,
        None,
    )


def test_a_secret_is_read_anew_each_time(tmp_path: Path) -> None:
    """Rotated in its place, it is the new one; gone, the error says where it should be."""
    environ = {"TOKEN": "one"}
    section = read("registries: {p: {type: shop, uri: u, token: {env: TOKEN}}}", environ).registries["p"]
    token = section.options["token"]
    assert isinstance(token, SecretReader)
    first = token()
    environ.update({"TOKEN": "two"})
    second = token()
    del environ["TOKEN"]

    assert (first, second) == ("one", "two")
    with pytest.raises(RegistryUnavailable, match="the secret in environment variable TOKEN is not set"):
        token()
    assert "two" not in repr(section)


def test_a_secret_s_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """Without the newline that editors add."""
    (tmp_path / "token").write_text("s3cret\n")
    text = "registries: {p: {type: shop, uri: u, token: {file: token}}}"
    token = parse_config(text, "f.yaml", tmp_path, {}).registries["p"].options["token"]

    assert isinstance(token, SecretReader)
    assert token() == "s3cret"


def test_sections_that_say_the_same_are_equal() -> None:
    """So that a reload leaves them alone; another place of a secret is a difference, its value is none."""
    text = "registries: {p: {type: shop, uri: u, token: {env: A}}}"

    assert read(text, {"A": "1"}).registries == read(text, {"A": "2"}).registries
    assert read(text).registries != read(text.replace("A}", "B}")).registries


def test_all_mistakes_come_at_once_each_with_its_line() -> None:
    """Those of several sections, of all kinds of keys; a wrong secret is not repeated."""
    text = """\
registries:
  one:
    type: shop
    uri: ""
    models: fraud
    names: {fraud: [a]}
    pol: 5s
  two:
    type: shop
    poll: 0s
    part: 8
    pages: x
    verify: yes
    token: hunter2
  three: {type: shpo, anything: goes}
  four: {type: later, uri: u}
  five: [shop]
  six: {uri: u}
  seven:
default_registry: one
"""

    assert problems(text) == [
        "f.yaml:4: registries.one.uri: must not be empty",
        "f.yaml:5: registries.one.models: must be a list, not 'fraud'",
        "f.yaml:6: registries.one.names.fraud: must be one value, not a list",
        "f.yaml:7: registries.one.pol: unknown key; did you mean poll?",
        "f.yaml:8: registries.two.uri: is missing",
        "f.yaml:10: registries.two.poll: must be longer than nothing",
        "f.yaml:11: registries.two.part: '8' is not a size; write a number with B, KiB, MiB, GiB or TiB, "
        "such as 64MiB",
        "f.yaml:12: registries.two.pages: 'x' is not a whole number",
        "f.yaml:13: registries.two.verify: 'yes' is neither true nor false",
        "f.yaml:14: registries.two.token: a secret is named, not written: {env: NAME} or {file: PATH}",
        "f.yaml:15: registries.three.type: 'shpo' is no type of registry; did you mean 'shop'?",
        "f.yaml:16: registries.four.type: registry type 'later' is not served by this version; use shop",
        "f.yaml:17: registries.five: must be a mapping of keys (type and those of its type), not a list",
        "f.yaml:18: registries.six.type: is missing; one of shop",
        "f.yaml:19: registries.seven: has no value; give one or remove the key",
    ]


def test_mistakes_elsewhere_are_told_beside_those_of_registries() -> None:
    """One does not hide the other."""
    found = problems("registries: {p: {type: shop}}\nthreads: many\ndefault_registry: q\n")

    assert [line.split(": ")[1] for line in found] == ["registries.p.uri", "threads", "default_registry"]


@pytest.mark.parametrize("text", ["registries: [a]", "registries: x"])
def test_registries_that_are_no_mapping_are_one_mistake(text: str) -> None:
    """There is nothing below to complain of."""
    (line,) = problems(text)

    assert line.startswith("f.yaml:1: registries: must be a mapping")


def test_the_environment_overrides_a_key_and_is_named_where_it_is_wrong() -> None:
    """As for all other keys."""
    text = "registries: {prod-eu: {type: shop, uri: u}}"
    good = read(
        text,
        {
            "STAGEGATE_REGISTRIES__PROD_EU__POLL": "1s",
            "STAGEGATE_REGISTRIES__PROD_EU__MODELS": "[a, b]",
            "STAGEGATE_REGISTRIES__PROD_EU__TOKEN": "{env: T}",
        },
    )
    options = good.registries["prod-eu"].options

    assert (options["poll"], options["models"]) == (1.0, ("a", "b"))
    assert isinstance(options["token"], SecretReader)
    assert problems(text, {"STAGEGATE_REGISTRIES__PROD_EU__POLL": "soon"}) == [
        "f.yaml: STAGEGATE_REGISTRIES__PROD_EU__POLL (registries.prod-eu.poll): 'soon' is not a duration; "
        "write a number with ms, s, m or h, such as 30s"
    ]
