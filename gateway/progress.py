"""What a start tells people on standard error: steps with their time; plain lines without a terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from gateway.config import GatewayConfig


class Progress(Protocol):
    """Where the steps of a start are told."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """One step: shown while the context is open, then as done, or as failed if it raises."""
        ...

    def ready(self, inference: str, admin: str, config: GatewayConfig, models: Sequence[str]) -> None:
        """Everything runs; `inference` and `admin` are bound `host:port`, `models` what is served."""
        ...


class Silent:
    """Tells nothing; for `stagegate gateway`, whose log says the same."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Nothing is shown."""
        return contextlib.nullcontext()

    def ready(self, inference: str, admin: str, config: GatewayConfig, models: Sequence[str]) -> None:
        """Nothing is shown."""


class Lines:
    """One line for each step that ended."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A line when it ends."""
        started = self._clock()
        try:
            yield
        except BaseException:
            self._tell(f"  failed: {text} ({self._clock() - started:.1f} s)")
            raise
        self._tell(f"  done: {text} ({self._clock() - started:.1f} s)")

    def ready(self, inference: str, admin: str, config: GatewayConfig, models: Sequence[str]) -> None:
        """The addresses and what to try next."""
        self._tell(ready_text(inference, admin, config, models))

    def _tell(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


class Spinner(Lines):
    """As `Lines`, with the step that runs shown at the bottom of a terminal."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console  # noqa: PLC0415 -- slow to import, and only a terminal needs it

        super().__init__(out, clock)
        self._console = Console(file=out)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A spinner while it runs, a line when it ends."""
        with super().step(text), self._console.status(text):
            yield


def people_progress(out: TextIO = sys.stderr) -> Progress:
    """The fitting one for a stream."""
    return Spinner(out) if out.isatty() else Lines(out)


def ready_text(inference: str, admin: str, config: GatewayConfig, models: Sequence[str]) -> str:
    """What `stagegate up` says in the end: where it listens and what to try next."""
    command = _own_command()
    server = "" if admin == "127.0.0.1:8003" else f" --server {admin}"
    rest = f"REST on http://{config.listen.http}/v2, " if config.listen.http else ""
    model, request = _example(config, models)
    return (
        f"\nstagegate is ready: gRPC on {inference}, {rest}metrics on http://{config.listen.metrics}/metrics\n"
        "Try in another terminal:\n"
        f"  {command} infer {model} --input {request}{server}\n"
        f"  {command} versions {model}{server}\n"
        f"  {command} status{server}\n"
        "Ctrl-C stops everything."
    )


def _own_command() -> str:
    """How this program was called, so that the same works in another terminal of the same folder."""
    called = Path(sys.argv[0])
    if called.name != "stagegate" or shutil.which("stagegate") == str(called):
        return "stagegate"
    return os.path.relpath(called)


def _example(config: GatewayConfig, models: Sequence[str]) -> tuple[str, str]:
    """A model with a request file `data/MODEL.json` beside the configuration, else the first model."""
    folder = Path(config.source).parent / "data"
    for model in models:
        request = folder / f"{model}.json"
        if request.is_file():
            return model, os.path.relpath(request)
    return (models[0] if models else "MODEL"), "REQUEST.json"
