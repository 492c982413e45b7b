"""scripts/parts.sh, which runs the parts of `make test` side by side."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Where the tests themselves run in the background, Ctrl-C is ignored, and a shell cannot change that.
SHELL = ("env", "--default-signal=INT", "bash", "-c")


def script(body: str) -> list[str]:
    """A script that has parts, for a shell in the top folder."""
    return [*SHELL, f"set -euo pipefail\n. scripts/lib.sh\n. scripts/parts.sh\n{body}\nparts_end"]


def run(body: str) -> subprocess.CompletedProcess[str]:
    """Run one to its end."""
    return subprocess.run(
        script(body), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.PIPE
    )


def test_parts_run_at_once_and_what_each_says_stays_together(tmp_path: Path) -> None:
    """Each waits for the other, and yet their lines do not mix."""
    there, back = tmp_path / "there", tmp_path / "back"
    for fifo in (there, back):
        os.mkfifo(fifo)

    done = run(f"""
        one() {{ echo one begins; echo go >{there}; read -r _ <{back}; echo one ends; }}
        two() {{ read -r _ <{there}; echo two; echo go >{back}; }}
        part "The first" one
        part "The second" two
    """)

    assert done.returncode == 0, done.stderr
    assert "one begins\none ends\n" in done.stdout
    assert done.stdout.startswith("The first ... begun\nThe second ... begun\n")
    assert done.stderr == ""


def test_one_that_fails_fails_all_and_is_told_again_at_the_end() -> None:
    """The others run to their end; nothing of a part runs behind what failed in it."""
    done = run("""
        bad() { echo trouble; false; echo never; }
        good() { echo fine; }
        part Bad bad
        part Good good
    """)

    assert done.returncode == 1
    assert "trouble" in done.stdout
    assert "fine" in done.stdout
    assert "never" not in done.stdout
    assert done.stderr.startswith("\nBad ... failed after ")
    assert done.stderr.endswith(": trouble\n")


def test_ctrl_c_lets_every_part_end_what_it_has_begun(tmp_path: Path) -> None:
    """Exit code 130, after a part has cleaned up; no process is left."""
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    os.mkfifo(begun)
    body = f"""
        patient() {{
          trap 'echo >{cleaned}; exit' INT
          echo $BASHPID >{begun}
          tail -f /dev/null
        }}
        part Patient patient
    """
    with subprocess.Popen(script(body), cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        group = int(begun.read_text())
        running.send_signal(signal.SIGINT)

        assert running.wait(90) == 130

    assert cleaned.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_ctrl_c_again_waits_no_longer(tmp_path: Path) -> None:
    """A part that does not end is killed then, with all that it started."""
    begun, asked = tmp_path / "begun", tmp_path / "asked"
    for fifo in (begun, asked):
        os.mkfifo(fifo)
    body = f"""
        stubborn() {{
          trap 'echo >{asked}' INT
          echo $BASHPID >{begun}
          while :; do tail -f /dev/null || true; done
        }}
        part Stubborn stubborn
    """
    with subprocess.Popen(script(body), cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        group = int(begun.read_text())
        running.send_signal(signal.SIGINT)
        asked.read_text()
        running.send_signal(signal.SIGINT)

        assert running.wait(30) == 130

    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
