"""What the stories of registries are told with: a client that asks for one name, and an eye on Triton."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from gateway.cli.admin_client import AdminClient
from tests.e2e.conftest import wait_until
from tests.e2e.digits import IMAGES

CLIENTS = 2
LOOK_SECONDS = 0.005
PAUSE_SECONDS = 0.005
GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """When an answer came, in monotonic seconds, and which version gave it."""

    at: float
    version: str


@dataclass
class NamedLoad:
    """Stock Triton clients that ask for one name over and over, each on a connection of its own.

    Attributes:
        name: such as `digits@champion`.
        answers: of each client, in the order in which it saw them.
        failures: what any of them got instead.
    """

    address: str
    name: str
    answers: list[list[Answer]] = field(default_factory=lambda: [[] for _ in range(CLIENTS)])
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._running = [
            threading.Thread(target=self._ask, args=(seen,), daemon=True) for seen in self.answers
        ]
        for thread in self._running:
            thread.start()
        self.wait_for_more("the first answers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(GIVE_UP_SECONDS)

    def wait_for(self, version: str) -> None:
        """Return when all clients are answered by a version."""
        wait_until(f"version {version} answers", lambda: self._latest() == {version}, GIVE_UP_SECONDS)

    def wait_for_more(self, what: str = "more answers", count: int = 20) -> None:
        """Return when each client has `count` more answers."""
        goals = [len(seen) + count for seen in self.answers]
        wait_until(
            what,
            lambda: all(len(seen) >= goal for seen, goal in zip(self.answers, goals, strict=True)),
            GIVE_UP_SECONDS,
        )

    def wait_longer(self, seconds: float) -> None:
        """Go on for a while."""
        self._stop.wait(seconds)

    def turns(self) -> list[list[str]]:
        """Of each client, the versions that answered one after the other."""
        return [
            [version for version, _ in itertools.groupby(one.version for one in seen)]
            for seen in self.answers
        ]

    def first(self, version: str, after: float = 0.0) -> float:
        """When the first answer of a version came after a moment, in monotonic seconds."""
        found = (one.at for seen in self.answers for one in seen if one.version == version and one.at > after)
        return min(found)

    def _latest(self) -> set[str]:
        return {seen[-1].version for seen in self.answers if seen}

    def _ask(self, seen: list[Answer]) -> None:
        tensor = triton.InferInput("X", [1, IMAGES.shape[1]], "FP32")
        tensor.set_data_from_numpy(IMAGES[:1])
        with triton.InferenceServerClient(self.address) as client:
            while not self._stop.is_set():
                try:
                    answer = client.infer(self.name, [tensor], client_timeout=GIVE_UP_SECONDS)
                    seen.append(Answer(time.monotonic(), answer.get_response().model_version))
                except InferenceServerException as error:
                    self.failures.append(str(error))
                time.sleep(PAUSE_SECONDS)


@dataclass
class Residency:
    """When Triton itself said that it has a version.

    Attributes:
        absent: monotonic seconds at which it was last asked in vain; 0 for never.
        present: at which it first said yes; 0 for never.
    """

    absent: float = 0.0
    present: float = 0.0


@contextmanager
def residency(admin: AdminClient, model: str, version: str) -> Iterator[Residency]:
    """Ask the gateway's Triton for a version, two hundred times a second, while the block runs."""
    address, name = triton_address(admin), backend_model(admin, model, version)
    found, stop = Residency(), threading.Event()

    def look() -> None:
        with triton.InferenceServerClient(address) as client:
            while not stop.wait(LOOK_SECONDS) and not found.present:
                asked = time.monotonic()
                if client.is_model_ready(name):
                    found.present = time.monotonic()
                else:
                    found.absent = asked

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield found
    finally:
        stop.set()
        looking.join(GIVE_UP_SECONDS)


def triton_address(admin: AdminClient) -> str:
    """Where the one Triton of a gateway listens."""
    (backend,) = admin.status().backends
    return backend.address


def backend_model(admin: AdminClient, model: str, version: str) -> str:
    """What a version is called inside Triton."""
    return next(row.backend_model for row in admin.versions(model).versions if row.version == version)


def is_resident(admin: AdminClient, model: str, version: str) -> bool:
    """Whether Triton itself has a version now."""
    with triton.InferenceServerClient(triton_address(admin)) as client:
        return bool(client.is_model_ready(backend_model(admin, model, version)))
