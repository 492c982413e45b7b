"""Commands that look: tables for people, JSON for programs, errors with exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from gateway.cli.inspecting import change
from gateway.cli.output import print_json
from router.errors import (
    ArtifactMissing,
    ConfigInvalid,
    ConfigProblem,
    Conflict,
    ModelNotFound,
    StagegateError,
    StateUnavailable,
)
from tests.fakes.operations import BROKEN, FakeOperations
from tests.unit.cli.conftest import Terminal


async def test_models_are_a_table(terminal: Terminal) -> None:
    """One line each; what cannot be served says why."""
    outcome = await terminal.run("models")

    heading, _, digits, broken = outcome.out.splitlines()
    assert outcome.code == 0
    assert heading.split() == ["MODEL", "REGISTRY", "VERSIONS", "POINTERS", "READY", "ROUTE", "PROBLEM"]
    assert "production=1, @challenger=2" in digits
    assert "stable=production:100 (implicit)" in digits
    assert "'org/m' is not a logical name" in broken


async def test_models_are_json(terminal: Terminal) -> None:
    """The same, for programs."""
    outcome = await terminal.run("models", "--json")

    assert outcome.json[0]["name"] == "digits"
    assert outcome.json[0]["stages"] == {"production": "1"}


async def test_no_models_say_where_to_look(terminal: Terminal, operations: FakeOperations) -> None:
    """An empty table would tell nothing."""
    operations.summaries = ()

    assert "stagegate status" in (await terminal.run("models")).out


async def test_a_version_is_shown_with_all_that_is_known(terminal: Terminal) -> None:
    """Contract, lineage, size, and how it answered."""
    out = (await terminal.run("show", "digits@production")).out

    for text in (
        "s3://models/digits/1",
        "3.0 MiB",
        "[-1, 64]",
        "abc123",
        "accuracy",
        "3 (1.50%)",
        "20.00 ms",
    ):
        assert text in out, text


async def test_a_version_is_shown_as_json(terminal: Terminal) -> None:
    """What is not known is null."""
    outcome = await terminal.run("show", "digits@@challenger", "--json")

    assert outcome.json["contract"]["inputs"][0]["shape"] == [-1, 32]
    assert (outcome.json["size"], outcome.json["unusable"]) == (None, "its registration is not finished")


async def test_two_versions_stand_side_by_side(terminal: Terminal) -> None:
    """And what of the second breaks the clients of the first is said."""
    outcome = await terminal.run("compare", "digits", "1", "@challenger")

    assert outcome.code == 0
    assert "2 would break clients of 1" in outcome.out
    assert "image" in outcome.out.partition("would break")[2]
    assert "3.0 MiB" in outcome.out


async def test_a_version_against_itself_breaks_nobody(terminal: Terminal) -> None:
    """Same files, same contract, no change."""
    out = (await terminal.run("compare", "digits", "1", "1")).out

    assert "the same files" in out
    assert "+0.0%" in out
    assert "takes and gives is the same" in out


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        (100, 137, "+37.0%"),
        (100, 950, "+850.0%"),
        (4_096, 3_024_000, "738 times"),
        (3_024_000, 4_096, "1/738"),
        (100, 11, "-89.0%"),
        (100, 0, "-100.0%"),
        (0, 100, ""),
        (None, 100, ""),
    ],
)
def test_what_is_many_times_as_much_is_told_so(one: float | None, two: float, told: str) -> None:
    """Nobody can picture +73730.1%."""
    assert change(one, two) == told


async def test_a_version_that_is_not_there_cannot_be_shown(terminal: Terminal) -> None:
    """Exit code 3, as for anything that is not found."""
    assert (await terminal.run("show", "digits@9")).code == 3
    assert (await terminal.run("compare", "digits", "1", "9")).code == 3


async def test_versions_are_a_table(terminal: Terminal) -> None:
    """With state, metrics, what keeps one loaded, and the reason of a failure, brackets and all."""
    outcome = await terminal.run("versions", "digits")

    assert "handwritten digits" in outcome.out
    assert "accuracy=0.9625" in outcome.out
    assert "no such file [model.onnx]" in outcome.out
    assert "stays loaded for 540 s: alias champion went on from it" in outcome.out


async def test_a_resolution_says_why(terminal: Terminal) -> None:
    """Version, arm, backend, split, and the sentences."""
    outcome = await terminal.run("resolve", "digits")

    assert [line.split() for line in outcome.out.splitlines() if line.startswith(("version", "arm"))] == [
        ["version", "1"],
        ["arm", "stable"],
    ]
    assert "10 %" in outcome.out
    assert "no reference was given, so the route decides" in outcome.out


@pytest.mark.parametrize(("reference", "kind"), [("digits@2", "version"), ("digits@@challenger", "alias")])
async def test_a_reference_is_resolved(terminal: Terminal, reference: str, kind: str) -> None:
    """As clients write it."""
    outcome = await terminal.run("resolve", reference, "--json")

    assert (outcome.json["kind"], outcome.json["version"], outcome.json["arm"]) == (kind, "2", "pinned")


async def test_weights_are_percent_in_json(terminal: Terminal) -> None:
    """As they are written in routes."""
    outcome = await terminal.run("resolve", "digits", "--json")

    assert [share["weight"] for share in outcome.json["shares"]] == [90, 10]


async def test_the_status_shows_backends_registries_and_problems(terminal: Terminal) -> None:
    """Everything at a glance."""
    out = (await terminal.run("status")).out

    for text in (
        "0.1.0, up 1 h",
        "connection refused",
        "half a file",
        "no such folder",
        "never",
        "revision 7",
    ):
        assert text in out


async def test_a_reload_tells_what_changed(terminal: Terminal) -> None:
    """And what waits for the next start."""
    out = (await terminal.run("reload")).out

    assert out == "stagegate.yaml: backends\nat the next start: threads\n"


async def test_a_refused_reload_lists_every_mistake(terminal: Terminal, operations: FakeOperations) -> None:
    """As check-config does, and with its exit code."""
    operations.failure = ConfigInvalid("f.yaml", [ConfigProblem("log.level", 3, "is loud")])

    outcome = await terminal.run("reload")

    assert outcome.code == 2
    assert outcome.err.splitlines() == ["f.yaml:3: log.level: is loud", "error: f.yaml: 1 problem"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ArtifactMissing("x", hint="y"), 1),
        (ModelNotFound("x", hint="y"), 3),
        (Conflict("x", current_revision=1, hint="y"), 4),
        (StateUnavailable("x", hint="y"), 5),
    ],
    ids=["failed", "not found", "conflict", "unavailable"],
)
async def test_errors_end_with_their_exit_code(
    terminal: Terminal, operations: FakeOperations, error: StagegateError, code: int
) -> None:
    """A sentence and a hint on standard error, nothing on standard output."""
    operations.failure = error

    outcome = await terminal.run("models", "--json")

    assert (outcome.code, outcome.out, outcome.err) == (code, "", "error: x\nhint: y\n")


async def test_nobody_there_is_exit_code_5(terminal: Terminal) -> None:
    """With the one line to type."""
    outcome = await terminal.run_alone("status", "--server", "127.0.0.1:1")

    assert outcome.code == 5
    assert "error: no gateway answers at 127.0.0.1:1\nhint: start one with 'stagegate up'" in outcome.err


@pytest.mark.parametrize(
    "arguments", [("models", "--server", "nowhere"), ("models", "--nope"), ("nope",), ("versions",)]
)
async def test_wrong_usage_is_exit_code_2(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    """Nothing is sent."""
    outcome = await terminal.run_alone(*arguments)

    assert (outcome.code, outcome.out) == (2, "")


async def test_the_environment_names_the_server(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """STAGEGATE_SERVER, so that it need not be typed."""
    monkeypatch.setenv("STAGEGATE_SERVER", terminal.server)

    assert (await terminal.run_alone("models")).code == 0


def test_the_version_is_shown_without_loading_grpc() -> None:
    """`--version` and `--help` answer at once; `python -m gateway` is the same command."""
    code = (
        "import sys\n"
        "from gateway.cli import main\n"
        "try:\n    main(['--version'])\n"
        "finally:\n"
        "    print([m for m in ('grpc', 'pydantic', 'numpy', 'tritonclient') if m in sys.modules])\n"
    )
    direct = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    module = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"], capture_output=True, text=True, check=True
    )

    assert direct.stdout.splitlines() == ["stagegate 0.1.0", "[]"]
    assert module.stdout == "stagegate 0.1.0\n"


def test_a_reader_that_goes_away_is_no_crash() -> None:
    """`stagegate --help | head -1`."""
    code = (
        "import os\nfrom gateway.cli import main\n"
        "reader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 1)\nmain(['--help'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)

    assert "Traceback" not in ended.stderr


def test_json_of_what_json_cannot_say(capsys: pytest.CaptureFixture[str]) -> None:
    """A registry's metric may be NaN."""
    print_json({"accuracy": float("nan"), "loss": float("inf")})

    assert json.loads(capsys.readouterr().out) == {"accuracy": "nan", "loss": "inf"}


async def test_a_row_is_one_line_for_a_pipe(terminal: Terminal, operations: FakeOperations) -> None:
    """However long a reason is, so that line-wise tools can be used."""
    operations.summaries = (replace(BROKEN, problem="word " * 200),)

    outcome = await terminal.run("models")

    assert len(outcome.out.splitlines()) == 3


async def test_a_request_is_resolved_with_what_it_says(terminal: Terminal) -> None:
    """Metadata as options; what is no pair is refused before anybody is asked."""
    found = await terminal.run("resolve", "digits", "--header", "x-team=risk")
    wrong = await terminal.run("resolve", "digits", "--parameter", "tier")

    assert found.code == 0, found.err
    assert "match rule 1 fits" in found.out
    assert wrong.code != 0
    assert "--parameter: 'tier' is not NAME=VALUE" in wrong.err
