"""What a measured proxy must tell the runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one.

    Attributes:
        command: what to run; it must stay in the foreground.
        version: the program's own words about itself.
        environment: what to add to the environment.
    """

    command: tuple[str, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Peer(Protocol):
    """A proxy in front of one HTTP/2 backend."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    @property
    def describes(self) -> str:
        """What it does with a request, in a few words."""
        ...

    @property
    def share(self) -> float:
        """The share of the requests that it is measured with: less than 1 for slow ones."""
        ...

    @property
    def answers_as(self) -> str:
        """The model name that its clients must see in an answer, "" for the backend's own."""
        ...

    @property
    def tls(self) -> bool:
        """Whether its clients speak TLS: it is measured in the shapes that do, and in no other."""
        ...

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """Writes its configuration into `folder` and says how to start it on 127.0.0.1:`port`.

        Raises:
            Missing: it is not installed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy at all: what the others are compared with for latency."""

    name: str = "direct"
    describes: str = "no proxy"
    share: float = 1.0
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """There is nothing to start."""
        raise NotImplementedError("the backend itself is the target")
