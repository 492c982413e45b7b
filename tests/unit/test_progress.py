"""What a start tells people."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from gateway.config import built_in_config, load_config
from gateway.progress import Lines, Silent, Spinner, people_progress


def test_a_step_is_a_line_with_its_time() -> None:
    """Once it is done."""
    out = io.StringIO()
    times = iter((10.0, 12.5))

    with Lines(out, clock=lambda: next(times)).step("starting Triton"):
        shown_while_it_runs = out.getvalue()

    assert (shown_while_it_runs, out.getvalue()) == ("", "  done: starting Triton (2.5 s)\n")


@pytest.mark.parametrize("progress", [Lines, Spinner])
def test_a_step_that_fails_says_so(progress: type[Lines]) -> None:
    """And the error goes on."""
    out = io.StringIO()
    times = iter((0.0, 1.0))

    with pytest.raises(RuntimeError), progress(out, clock=lambda: next(times)).step("loading m"):
        raise RuntimeError

    assert "failed: loading m (1.0 s)" in out.getvalue()


def test_the_end_of_a_start_says_what_to_try() -> None:
    """Three commands, which find this gateway wherever it listens."""
    out = io.StringIO()

    Lines(out).ready("127.0.0.1:9001", "127.0.0.1:9003", built_in_config(Path("/base"), {}), ["m"])

    commands = [line.strip() for line in out.getvalue().splitlines() if line.startswith("  stagegate")]
    assert len(commands) == 3
    assert all(command.endswith("--server 127.0.0.1:9003") for command in commands)
    assert commands[0].startswith("stagegate infer m --input")


def test_a_request_file_beside_the_configuration_is_named(tmp_path: Path) -> None:
    """The first command can be typed as it stands where the examples are."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits.json").write_text("{}")
    (tmp_path / "stagegate.yaml").write_text("registries: {local: {type: folder, path: models}}\n")
    config = load_config(tmp_path / "stagegate.yaml", {})
    out = io.StringIO()

    Lines(out).ready("127.0.0.1:8001", "127.0.0.1:8003", config, ["diabetes", "digits"])

    assert f"infer digits --input {os.path.relpath(tmp_path / 'data/digits.json')}\n" in out.getvalue()


def test_a_pipe_gets_plain_lines() -> None:
    """No escape sequences in a log file."""
    assert type(people_progress(io.StringIO())) is Lines


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """For processes whose log says the same."""
    with Silent().step("x"):
        pass

    assert capsys.readouterr() == ("", "")
