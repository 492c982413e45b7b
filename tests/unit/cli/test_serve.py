"""Commands that read a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main

FIVE_MISTAKES = """\
listen: {inference: 8001}
limits:
  max_mesage: 64MiB
  queue_per_model: many
backends:
  - {name: t0}
log: {level: loud}
"""


def run(*arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_a_right_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0."""
    file = tmp_path / "s.yaml"
    file.write_text("backends: [{name: t0, grpc: '127.0.0.1:9001'}]\n")

    assert run("check-config", str(file)) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"


def test_a_file_without_backends_is_for_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no mistake, and `stagegate gateway` would refuse it: that is said here already."""
    file = tmp_path / "s.yaml"
    file.write_text("state: memory://\n")

    assert run("check-config", str(file)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{file}: ok"
    assert second.startswith("  backends: none is named, so only `stagegate up`")


def test_a_key_without_effect_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a start logs it."""
    file = tmp_path / "s.yaml"
    file.write_text("backends: [{name: t0, grpc: '127.0.0.1:9001', memory: 8GiB}]\n")

    assert run("check-config", str(file), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"]) == (True, [])
    assert [remark.partition(": ")[0] for remark in found["remarks"]] == ["backends[0].memory"]


def test_five_mistakes_are_five_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with file, line and path; exit code 2."""
    file = tmp_path / "s.yaml"
    file.write_text(FIVE_MISTAKES)

    code = run("check-config", str(file))

    lines = capsys.readouterr().out.splitlines()
    assert code == 2
    assert [line.removeprefix(str(file)).split(": ")[0] for line in lines] == [":1", ":3", ":4", ":6", ":7"]


def test_mistakes_are_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For editors and pipelines."""
    file = tmp_path / "s.yaml"
    file.write_text(FIVE_MISTAKES)

    code = run("check-config", str(file), "--json")

    found = json.loads(capsys.readouterr().out)
    assert (code, found["ok"], len(found["problems"])) == (2, False, 5)
    assert found["problems"][0]["path"] == "listen.inference"


def test_the_environment_is_checked_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What starts the gateway is file and environment together."""
    file = tmp_path / "s.yaml"
    file.write_text("state: memory://\n")
    monkeypatch.setenv("STAGEGATE_LIMITS__MAX_STREAMS", "none")

    assert run("check-config", str(file)) == 2
    assert "STAGEGATE_LIMITS__MAX_STREAMS" in capsys.readouterr().out


def test_certificates_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there would be told by the next start; better now."""
    file = tmp_path / "s.yaml"
    file.write_text("tls: {cert: a.pem, key: a.key}\n")

    assert run("check-config", str(file)) == 2
    assert "tls.cert: " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["gateway", "up"])
def test_a_wrong_configuration_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """All mistakes on standard error, exit code 2."""
    file = tmp_path / "s.yaml"
    file.write_text(FIVE_MISTAKES)

    code = run(command, "--config", str(file))

    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 6


def test_a_gateway_needs_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """The hint names the command that needs none."""
    assert run("gateway") == 2
    assert "'stagegate up' needs none" in capsys.readouterr().err


def test_a_gateway_needs_a_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else it could answer nothing, for ever."""
    file = tmp_path / "s.yaml"
    file.write_text("state: memory://\n")

    assert run("gateway", "--config", str(file)) == 2
    assert "backends: a gateway needs at least one" in capsys.readouterr().err
