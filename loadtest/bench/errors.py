"""What can stop a measurement, each with what to do about it."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be made; the text names the part and what to do next."""


class Missing(BenchError):
    """A program is not installed.

    Attributes:
        program: what was looked for.
        remedy: the package to install, or the line to type.
    """

    def __init__(self, program: str, remedy: str) -> None:
        super().__init__(f"{program} is not installed: {remedy}")
        self.program = program
        self.remedy = remedy


class BadAnswers(BenchError):
    """The backend itself gave answers that are not good, so no figure means anything."""
