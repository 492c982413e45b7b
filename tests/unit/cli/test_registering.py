"""Commands that ask registries themselves."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gateway import threads
from gateway.cli import main
from router.registries.folder import FolderRegistry


def test_a_registry_that_hangs_does_not_hold_up_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told after the time that was given, and the command ends then."""
    answers = threading.Event()
    late = threading.Timer(10.0, answers.set)
    late.start()
    monkeypatch.setattr(FolderRegistry, "_read", lambda *_: answers.wait())
    monkeypatch.setattr(threads, "END_SECONDS", 0.01)
    file = tmp_path / "s.yaml"
    file.write_text("registries: {local: {type: folder, path: ./models}}\n")
    with pytest.raises(SystemExit) as end:
        main(("registry", "check", "--config", str(file), "--timeout", "0.1"))
    hung = not answers.is_set()
    late.cancel()
    answers.set()

    assert hung
    assert end.value.code == 5
    assert "was not read within 0.1 s" in capsys.readouterr().out


def test_a_check_without_a_file_says_what_it_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever runs a gateway with a file of its own would look for a folder that it does not use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STAGEGATE_CONFIG", raising=False)
    with pytest.raises(SystemExit) as end:
        main(("registry", "check"))

    assert end.value.code == 5
    assert capsys.readouterr().out.endswith("only the registry ./models is looked at\n")
