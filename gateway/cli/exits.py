"""Exit codes, and the table from errors to them."""

# ruff: noqa: PLC0415 -- commands import when they run, so that --help is quick
# ruff: noqa: T201 -- standard output is what a command line is for
from __future__ import annotations

import sys

from router.errors import ConfigInvalid, Conflict, InvalidInput, NotFound, StagegateError, Unavailable

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
UNAVAILABLE = 5

_TABLE: tuple[tuple[type[StagegateError], int], ...] = (
    (InvalidInput, USAGE),
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (Unavailable, UNAVAILABLE),
)


def exit_code(error: StagegateError) -> int:
    """What the process ends with."""
    return next((code for kind, code in _TABLE if isinstance(error, kind)), FAILED)


def tell(error: StagegateError) -> int:
    """Write an error to standard error, for people and for scripts that read lines; return the exit code."""
    if isinstance(error, ConfigInvalid):
        # Imported here: reading configurations is slow to import, and most commands never do it.
        from gateway.config.load import describe_problems

        for line in describe_problems(error):
            print(line, file=sys.stderr)
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return exit_code(error)
