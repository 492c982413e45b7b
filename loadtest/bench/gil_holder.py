"""A process whose data plane serves while its Python is told to hold the interpreter lock.

    python -m loadtest.bench.gil_holder BACKEND_ADDRESS BACKEND_MODEL BACKEND_VERSION MODEL

Prints its port as JSON, then reads lines: `hold SECONDS` holds the lock, asleep, for that long and answers
`held`; the end of its input ends it.
"""

from __future__ import annotations

import ctypes
import json
import sys

from gateway.bridge import DataPlane, Settings
from router.traffic.table import ArmSpec, BackendSpec, ModelSpec, Snapshot, VersionSpec

# A PyDLL call keeps the lock, where a CDLL call would give it back: no Python runs until it returns.
_LIBC = ctypes.PyDLL(None)


def main() -> None:
    """Serve until the input ends."""
    address, backend_model, backend_version, model = sys.argv[1:]
    plane = DataPlane(Settings(threads=1))
    version = VersionSpec("1", "ready", ("constant",), backend_model, backend_version, "", b"")
    spec = ModelSpec(model, (version,), (), (ArmSpec("stable", "1", 10_000),), "1", 0, "")
    plane.publish(Snapshot(1, (BackendSpec("constant", address),), (spec,)))
    plane.set_ready(True)
    _say(json.dumps({"port": plane.inference_port}))
    for line in sys.stdin:
        _, seconds = line.split()
        _LIBC.usleep(int(float(seconds) * 1_000_000))
        _say("held")
    plane.stop()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
