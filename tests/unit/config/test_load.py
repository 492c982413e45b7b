"""From a file and the environment to a configuration, or to all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import (
    Address,
    GatewayConfig,
    StateConfig,
    built_in_config,
    changed_keys,
    describe_problems,
    load_config,
    parse_config,
)
from router.errors import ConfigInvalid
from router.model import Backend, BackendId, Control

BASE = Path("/base")


def parse(text: str, environ: Mapping[str, str] | None = None) -> GatewayConfig:
    """A configuration from text; its folder is `/base`."""
    return parse_config(text, "f.yaml", BASE, environ or {})


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines that describe all mistakes."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, environ)
    return list(describe_problems(caught.value))


def test_the_design_s_keys_are_read() -> None:
    """Every key that this version serves, in one file."""
    config = parse(
        """
        listen: {inference: 0.0.0.0:9001, metrics: "[::1]:9002", admin: localhost:9003}
        threads: 3
        state: sqlite:///data/s.db
        registries: {local: {type: folder, path: ./models}}
        default_registry: local
        backends:
          - {name: t0, grpc: "127.0.0.1:9101", http: "127.0.0.1:9100", metrics: "127.0.0.1:9102",
             control: explicit, repository: /srv/models}
          - {name: t1, grpc: "10.0.0.7:8001", control: none}
        protocol: {allow: [repository, TraceSetting]}
        auth: {mode: none}
        log: {format: json, level: debug}
        limits: {max_message: 128MiB, queue_per_model: 0, default_deadline: 500ms}
        residency: {idle_unload: never, load_timeout: 5m}
        triton: {instances: 2, path: triton, folder: work}
        """
    )

    assert config.listen.metrics == Address("::1", 9002)
    assert config.threads == 3
    assert config.state == StateConfig(kind="sqlite", path=BASE / "data/s.db")
    assert config.registries["local"].options["path"] == BASE / "models"
    assert config.backends[0].to_backend() == Backend(
        BackendId("t0"),
        "127.0.0.1:9101",
        "127.0.0.1:9100",
        "127.0.0.1:9102",
        Control.EXPLICIT,
        Path("/srv/models"),
    )
    assert config.backends[1].to_backend().control is Control.NONE
    assert config.protocol.methods == ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting")
    assert (config.log.format, config.log.level) == ("json", "debug")
    assert config.limits.max_message == 128 << 20
    assert config.limits.default_deadline == 0.5
    assert config.residency.idle_unload is None
    assert config.residency.load_timeout == 300.0
    assert (config.triton.instances, config.triton.path, config.triton.folder) == (
        2,
        BASE / "triton",
        BASE / "work",
    )


def test_five_lines_put_a_gateway_before_a_triton() -> None:
    """Everything else has a default."""
    config = parse("backends:\n  - name: t0\n    grpc: 127.0.0.1:9001\n")

    assert config.listen.inference == Address("0.0.0.0", 8001)  # Triton's own ports
    assert config.default_registry == ""
    assert config.limits.max_message == 64 << 20
    assert config.residency.idle_unload == 1_800
    assert config.state == StateConfig(kind="sqlite", path=BASE / ".stagegate/stagegate.db")


def test_the_built_in_configuration_stands_in_the_working_folder() -> None:
    """`stagegate up` without a file."""
    config = built_in_config(BASE, {})

    assert config.source == "(built in)"
    assert config.registries["local"].options["path"] == BASE / "models"
    assert config.default_registry == "local"
    assert config.triton.folder == BASE / ".stagegate"


def test_one_registry_is_the_default_one() -> None:
    """There is nothing to choose."""
    assert parse("registries: {prod: {type: folder, path: x}}").default_registry == "prod"


def test_words_of_yaml_stay_words() -> None:
    """A backend called `no` and a registry called `1.10` keep their names."""
    config = parse("registries: {1.10: {type: folder, path: x}}\nbackends: [{name: no, grpc: 'h:1'}]\n")

    assert (list(config.registries), config.backends[0].name) == (["1.10"], "no")


def test_five_mistakes_are_five_lines() -> None:
    """All at once, each with file, line, path and what would be right."""
    text = """\
listen: {inference: 8001}
limits:
  max_mesage: 64MiB
  queue_per_model: many
backends:
  - {name: t0}
log: {level: loud}
"""

    assert problems(text) == [
        "f.yaml:1: listen.inference: '8001' is not HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001",
        "f.yaml:3: limits.max_mesage: unknown key; did you mean max_message?",
        "f.yaml:4: limits.queue_per_model: 'many' is not a whole number between 0 and 1000000",
        "f.yaml:6: backends[0].grpc: is missing",
        "f.yaml:7: log.level: 'loud' is not one of debug, info, warning, error",
    ]


def test_a_key_given_twice_hides_no_other_mistake() -> None:
    """The document's own problems and the schema's come together."""
    found = problems("log: {level: info}\nthreads: 0\nlog: {level: debug}\n")

    assert [line.split(":")[1] for line in found] == ["2", "3"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("auth: {mode: mtls}", "auth.mode"),
        ("auth: {mode: api-key}", "auth.mode"),
        ("auth: {mode: jwt}", "auth.mode"),
        ("state: 'redis://host:6379/0'", "state"),
        ("state: 'rediss://host:6379/0'", "state"),
    ],
)
def test_what_this_version_does_not_serve_is_refused_plainly(text: str, path: str) -> None:
    """Exactly one line that says so: it is neither ignored nor called unknown."""
    (line,) = problems(text)

    assert line.startswith(f"f.yaml:1: {path}: ")
    assert "not served by this version" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("limits:", "f.yaml:1: limits: has no value; give one or remove the key"),
        ("threads:", "f.yaml:1: threads: has no value; give one or remove the key"),
        ("state:", "f.yaml:1: state: has no value; give one or remove the key"),
        ("backends: t0", "f.yaml:1: backends: must be a list, not 't0'"),
        ("log: [text]", "f.yaml:1: log: must be a mapping of keys (format, level), not a list"),
        ("threads: [1]", "f.yaml:1: threads: must be one value, not a list"),
        ("state: postgres://x", "f.yaml:1: state: 'postgres://x' is not memory:// or sqlite:///PATH"),
        ("- a", "f.yaml:1: must be a mapping of keys such as listen and backends"),
        ("registries: {a b: {type: folder, path: x}}", "f.yaml:1: registries.a b: 'a b' is not a name"),
        ("limits: {max_buffered: 16MiB}", "f.yaml:1: limits.max_buffered: is less than max_message"),
        ("protocol: {allow: [all]}", "f.yaml:1: protocol.allow[0]: 'all' is neither a group"),
    ],
)
def test_a_wrong_shape_or_value_is_named(text: str, expected: str) -> None:
    """One line, and it says what would be right."""
    (line,) = problems(text)

    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default_registry: x", "default_registry: there is no registry 'x'; those given: none"),
        (
            "registries: {a: {type: folder, path: a}, b: {type: folder, path: b}}",
            "default_registry: is missing; name one of a, b",
        ),
        (
            "backends: [{name: a, grpc: 'h:1'}, {name: a, grpc: 'h:2'}]",
            "backends[1].name: backend name 'a' is that of backends[0] already",
        ),
        (
            "backends: [{name: a, grpc: 'h:1'}, {name: b, grpc: 'h:1'}]",
            "backends[1].grpc: address 'h:1' is that of backends[0] already",
        ),
        (
            "backends: [{name: a, grpc: 'h:1', control: explicit}]",
            "backends[0]: control: explicit needs repository",
        ),
        (
            "backends: [{name: a, grpc: 'h:1', repository: r}]",
            "backends[0].repository: is only used with control: explicit",
        ),
        (
            "listen: {inference: '127.0.0.1:9', metrics: 'localhost:9'}",
            "listen.metrics: localhost:9 is listen.inference already",
        ),
        ("listen: {admin: '0.0.0.0:8003'}", "listen.admin: 0.0.0.0:8003 can be reached from other machines"),
    ],
)
def test_keys_that_contradict_each_other_are_named(text: str, expected: str) -> None:
    """One line each."""
    (line,) = problems(text)

    assert line.startswith(f"f.yaml:1: {expected}")


def test_contradictions_are_found_beside_other_mistakes() -> None:
    """A wrong value elsewhere hides nothing."""
    found = problems("threads: x\nbackends: [{name: a, grpc: bad}, {name: a, grpc: 'h:1'}]\n")

    assert len(found) == 3


def test_two_listeners_may_both_take_any_port() -> None:
    """Port 0 never clashes."""
    config = parse("listen: {inference: '127.0.0.1:0', metrics: '127.0.0.1:0', admin: '127.0.0.1:0'}")

    assert config.listen.admin.port == 0


def test_the_environment_overrides_the_file() -> None:
    """Nested by two underscores, lists by index, an index at the end of a list adds to it."""
    config = parse(
        "listen: {inference: '0.0.0.0:1'}\nbackends: [{name: a, grpc: 'h:1'}]\n",
        {
            "STAGEGATE_LISTEN__INFERENCE": "127.0.0.1:8101",
            "STAGEGATE_BACKENDS__0__GRPC": "other:1",
            "STAGEGATE_BACKENDS__1__NAME": "b",
            "STAGEGATE_BACKENDS__1__GRPC": "h:2",
            "STAGEGATE_LIMITS__MAX_MESSAGE": "1GiB",
            "STAGEGATE_PROTOCOL__ALLOW": "[trace, log]",
            "HOME": "/x",
        },
    )

    assert config.listen.inference == Address("127.0.0.1", 8101)
    assert [(backend.name, str(backend.grpc)) for backend in config.backends] == [
        ("a", "other:1"),
        ("b", "h:2"),
    ]
    assert config.limits.max_message == 1 << 30
    assert config.protocol.allow == ("trace", "log")


def test_an_override_finds_a_name_that_a_variable_cannot_spell() -> None:
    """`my-models.v2` is `MY_MODELS_V2` in the environment."""
    config = parse(
        "registries: {my-models.v2: {type: folder, path: a}}",
        {"STAGEGATE_REGISTRIES__MY_MODELS_V2__PATH": "/b"},
    )

    assert config.registries["my-models.v2"].options["path"] == Path("/b")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STAGEGATE_LIMTS__MAX_MESSAGE", "1MiB", "(limts): unknown key; did you mean limits?"),
        (
            "STAGEGATE_LIMITS__MAX_MESAGE",
            "1MiB",
            "(limits.max_mesage): unknown key; did you mean max_message?",
        ),
        ("STAGEGATE_THREADS", "many", "(threads): 'many' is not a whole number"),
        ("STAGEGATE_BACKENDS__3__NAME", "a", ": the list has 1 entries, so 3 is too high; the next one is 1"),
        ("STAGEGATE_STATE__PATH", "a", ": there is no key 'path' below a single value"),
        ("STAGEGATE_PROTOCOL__ALLOW", "[a", ": not valid YAML"),
    ],
)
def test_a_wrong_override_is_named(variable: str, value: str, expected: str) -> None:
    """By its variable; the file's line would mislead."""
    (line,) = problems("state: memory://\nbackends: [{name: a, grpc: 'h:1'}]\n", {variable: value})

    assert line.startswith(f"f.yaml: {variable}")
    assert expected in line


@pytest.mark.parametrize(
    "variable",
    [
        "STAGEGATE_SERVER",
        "STAGEGATE_CONFIG",
        "STAGEGATE_TRITON",
        "STAGEGATE_SERVICE_HOST",
        "STAGEGATE_PORT",
        "STAGEGATE_PORT_8001_TCP_ADDR",
        "STAGEGATE_SERVICE_PORT_GRPC",
        "STAGEGATE_ADMIN_SERVICE_HOST",
    ],
)
def test_variables_with_another_meaning_are_no_overrides(variable: str) -> None:
    """The CLI's own, and what Kubernetes sets beside a Service of that name."""
    assert parse("state: memory://", {variable: "tcp://10.0.0.1:8001"}).state.kind == "memory"


def test_threads_default_to_the_cores() -> None:
    """At least one."""
    assert parse("state: memory://").threads >= 1


def test_a_file_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(ConfigInvalid) as caught:
        load_config(tmp_path / "none.yaml", {})

    assert list(describe_problems(caught.value)) == [
        f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    ]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Not to the folder that the process was started in."""
    (tmp_path / "s.yaml").write_text(
        "registries: {local: {type: folder, path: ./m}}\nstate: sqlite:////abs/s.db\n"
    )

    config = load_config(tmp_path / "s.yaml", {})

    assert config.registries["local"].options["path"] == tmp_path / "m"
    assert config.state.path == Path("/abs/s.db")
    assert config.source == str(tmp_path / "s.yaml")


def test_an_empty_file_is_all_defaults() -> None:
    """So is one of comments only."""
    assert parse("# nothing\n").backends == ()


def test_changed_keys_are_named_one_level_deep() -> None:
    """What a reload reports."""
    old = parse("threads: 1\nlimits: {max_streams: 1}\nbackends: [{name: a, grpc: 'h:1'}]\n")
    new = parse("threads: 1\nlimits: {max_streams: 2}\nstate: memory://\n")

    assert changed_keys(old, new) == ("state", "backends", "limits.max_streams")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("{}", Address("0.0.0.0", 8000)),
        ("{http: off}", None),
        ("{http: '127.0.0.1:0'}", Address("127.0.0.1", 0)),
    ],
)
def test_rest_is_on_tritons_port_elsewhere_or_off(text: str, address: Address | None) -> None:
    """`off` is a word here, as everywhere in the file."""
    assert parse(f"listen: {text}\n").listen.http == address


def test_keys_of_the_next_version_are_checked_and_told() -> None:
    """A file for a later version starts here too, and says what has no effect yet."""
    config = parse("state: memory://\nbackends: [{name: a, grpc: 'h:1', memory: 8GiB}]\n")

    assert [told.split(" are ")[0] for told in config.not_served] == ["backends[0].memory: memory budgets"]
    assert config.backends[0].to_backend().memory == 8 << 30


def test_what_a_triton_runs_may_be_said() -> None:
    """Where it is not, that is not known, which is something else than none."""
    config = parse(
        "state: memory://\nbackends: [{name: a, grpc: 'h:1'}, {name: b, grpc: 'h:2', runs: [x]}]\n"
    )

    assert [one.to_backend().backends for one in config.backends] == [None, frozenset({"x"})]


def test_limits_that_may_be_off_have_a_word_for_it() -> None:
    """`off` and `never` are the defaults, and a number is one."""
    limits = parse("limits: {connections_per_address: off, max_connection_age: never}").limits
    given = parse("limits: {connections_per_address: 10, max_connection_age: 1h}").limits

    assert (limits.connections_per_address, limits.max_connection_age) == (None, None)
    assert (given.connections_per_address, given.max_connection_age) == (10, 3600.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tls: {cert: a.pem}", "f.yaml:1: tls.key: is missing"),
        ("tls: {cert: a.pem, key: b.pem, ca: c.pem}", "f.yaml:1: tls.ca: unknown key"),
        (
            'backends: [{name: t0, grpc: "h:1", tls: {ca: a.pem, cert: b.pem}}]',
            "f.yaml:1: backends[0].tls.cert: needs key beside it",
        ),
        (
            'backends: [{name: t0, grpc: "h:1", tls: {server_name: t}}]',
            "f.yaml:1: backends[0].tls.ca: is missing",
        ),
    ],
)
def test_half_of_what_tls_needs_is_a_mistake(text: str, expected: str) -> None:
    """With the key that is missing."""
    (line,) = problems(text)

    assert line.startswith(expected)


def test_certificates_are_files_beside_the_configuration() -> None:
    """As all paths are."""
    config = parse("tls: {cert: a.pem, key: b.key}")

    assert config.tls is not None
    assert config.tls.cert.name == "a.pem"
    assert config.tls.cert.is_absolute()
