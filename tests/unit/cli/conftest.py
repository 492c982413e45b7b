"""The command line against a real admin API and inference port on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.admin import serve_admin
from gateway.cli import main
from gateway.config import Address
from tests.fakes.inference import EchoInference, serve_inference
from tests.fakes.operations import STATUS, FakeOperations


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Runs commands against one gateway."""

    server: str
    captured: pytest.CaptureFixture[str]

    async def run(self, *arguments: str) -> Outcome:
        """A command that asks the gateway."""
        return await self.run_alone(*arguments, "--server", self.server)

    async def run_alone(self, *arguments: str) -> Outcome:
        """A command with exactly these arguments."""
        code = await asyncio.to_thread(_exit_code, arguments)
        out, err = self.captured.readouterr()
        return Outcome(code, out, err)


def _exit_code(arguments: tuple[str, ...]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@pytest.fixture
def inference() -> EchoInference:
    """What answers on the inference port."""
    return EchoInference()


@pytest.fixture
async def operations(inference: EchoInference) -> AsyncIterator[FakeOperations]:
    """The gateway behind the admin API; its status names the inference port."""
    async with serve_inference(inference) as address:
        yield FakeOperations(report=replace(STATUS, inference=address))


@pytest.fixture
async def terminal(operations: FakeOperations, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Terminal]:
    """A command line that knows where the gateway is."""
    async with serve_admin(Address("127.0.0.1", 0), operations) as bound:
        yield Terminal(str(bound), capsys)
