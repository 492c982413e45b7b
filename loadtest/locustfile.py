"""Users of a running gateway: `locust -f loadtest/locustfile.py --headless --host 127.0.0.1:8001`.

`--plan steady|ramp|spike|smoke` chooses how many; the exit code says whether the limits were kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc.experimental import gevent as grpc_gevent  # type: ignore[attr-defined, unused-ignore]
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from rich.console import Console

# locust is a program of its own: it knows this file, not the checkout around it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.payloads import DIGITS, held_out
from loadtest.report import ANSWERS, Limits, Totals, problems, table
from loadtest.shapes import PLANS, PlannedLoad
from loadtest.users import DigitsUser, images_of

__all__ = ["DigitsUser", "PlannedLoad"]

# Before the first channel: gRPC's threads must give way to locust's green ones.
grpc_gevent.init_gevent()


def add_options(parser: LocustArgumentParser) -> None:
    """Our options beside locust's own."""
    group = parser.add_argument_group("stagegate")
    group.add_argument("--plan", choices=sorted(PLANS), default="steady", help="how many users when (steady)")
    group.add_argument("--images", type=Path, default=DIGITS, help="held-out digits (examples/data)")
    group.add_argument("--max-failures", type=float, default=0.0, help="share of requests that may fail (0)")
    group.add_argument("--max-p99-ms", type=float, default=500.0, help="99th percentile allowed (500)")


def load_data(environment: Environment, **_: object) -> None:
    """Reads the images before the first user comes, so that a missing file stops the run at once."""
    held_out(images_of(environment))


def judge(environment: Environment, **_: object) -> None:
    """Prints what was found and sets the exit code."""
    options, stats = environment.parsed_options, environment.stats.total
    if options is None:
        raise RuntimeError("locust was not started from its command line")
    p99 = stats.get_response_time_percentile(0.99) or 0.0
    totals = Totals(stats.num_requests, stats.num_failures, p99)
    found = problems(totals, Limits(options.max_failures, options.max_p99_ms))
    console = Console()
    console.print(table(ANSWERS))
    for line in found:
        console.print(f"FAILED: {line}", style="red", highlight=False)
    if not found:
        console.print(f"passed: {totals.requests} requests, p99 {p99:.0f} ms", highlight=False)
    environment.process_exit_code = 1 if found else 0


_LISTENERS = (
    (events.init_command_line_parser, add_options),
    (events.init, load_data),
    (events.quitting, judge),
)
for hook, listener in _LISTENERS:
    hook.add_listener(listener)  # type: ignore[no-untyped-call]
