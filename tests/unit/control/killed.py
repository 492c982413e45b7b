"""A control loop with its worker that is killed in the middle of promotions, over and over.

`python -m tests.unit.control.killed FOLDER ROUNDS`: each round is a process of its own, on the same state
and the same folder registry. It ends with a message where registry and state are not in step.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import yaml

from gateway.clock import SystemClock
from router.control.controller import Controller, ControllerSettings
from router.control.decide import Decider, Order
from router.control.residents import BackendState
from router.control.writebacks import WriteBacks
from router.model import Control, ModelName, PointerKind, TritonName
from router.ports import WriteBack
from router.registries.folder import FolderRegistry
from router.stores import SqliteStore
from router.stores.decisions import decode_write_back
from tests.fakes.data_plane import FakeDataPlane
from tests.unit.control.conftest import Folders, Records, Triton

M = ModelName("m")
PATIENCE = 60.0


async def child(folder: Path, say: int, seed: int) -> None:
    """Bring registry and state together, say so, then promote until somebody ends it."""
    store = await SqliteStore.open(folder / "state.db")
    clock = SystemClock()
    controller = Controller(
        ControllerSettings(default_registry="local", idle_unload=1e9, load_timeout=60.0),
        store=store,
        data_plane=FakeDataPlane(),
        clock=clock,
        recorder=Records(),
        describe=lambda version: b"",
        triton_name=lambda version: TritonName(f"{version.model}.{version.version}"),
    )
    triton = Triton("t0", Control.EXPLICIT)
    triton.loaded = {("m.1", "1"), ("m.2", "1")}
    await controller.load_routes()
    controller.add_backend(BackendState(triton.backend, triton, Folders()))
    controller.add_registry(FolderRegistry("local", folder / "models"))
    worker = WriteBacks(controller, store, clock)
    decider = Decider(controller, store, worker, clock)
    tasks = [asyncio.create_task(controller.run()), asyncio.create_task(worker.run())]
    await controller.until(lambda: M in controller.models and not controller.writes)
    served = controller.served("local", M, PointerKind.ALIAS, "champion")
    os.write(say, f"agreed {served}\n".encode())
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    version = "1" if served == "2" else "2"
    while True:
        os.write(say, f"asked {version}\n".encode())
        await decider.promote(M, version, "@champion", Order("me", ""))
        version = "1" if version == "2" else "2"
        await asyncio.sleep(chance.choice((0.0, 0.002, 0.01)))
        assert not any(task.done() for task in tasks)


def named(folder: Path) -> str:
    """What the file says; it is whole."""
    document = yaml.safe_load((folder / "models/m/model.yaml").read_text())
    return str(document["aliases"]["champion"])


def newest(folder: Path) -> WriteBack | None:
    """What was decided last."""
    with closing(sqlite3.connect(folder / "state.db")) as db:
        row = db.execute("SELECT id, document FROM write_back ORDER BY id DESC LIMIT 1").fetchone()
    return decode_write_back(*row) if row else None


def one_round(folder: Path, turn: int) -> str:
    """Start, let it agree, kill it in the middle, and look; returns what is wrong."""
    before = newest(folder) if (folder / "state.db").exists() else None
    listen, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(listen)
        try:
            asyncio.run(child(folder, say, turn))
        finally:
            os._exit(1)
    os.close(say)
    try:
        with os.fdopen(listen, closefd=False) as lines:
            agreed = lines.readline().split()
            expected = before.version if before else "1"
            if agreed != ["agreed", expected]:
                return f"came up with {agreed}, and {expected} was decided"
            time.sleep(random.Random(turn).uniform(0.0, 0.06))  # noqa: S311 - nothing secret
            os.kill(pid, signal.SIGKILL)
            asked = [line.split()[1] for line in lines]
    finally:
        os.close(listen)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found, file = newest(folder), named(folder)
    if found is None or found.version not in (*asked[-2:], expected):
        return f"{asked[-3:]} were asked for, and the state has {found}"
    if file not in (found.version, *found.before):
        return f"the file names {file}, the state has {found}"
    if found.state.ended and file != found.version:
        return f"the file names {file}, and the state says that it names {found.version}"
    return ""


def main(folder: Path, rounds: int) -> int:
    """Play; the exit code."""
    signal.alarm(int(PATIENCE))
    for turn in range(rounds):
        wrong = one_round(folder, turn)
        if wrong:
            sys.stderr.write(f"round {turn}: {wrong}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
