"""The command line `stagegate`."""

from gateway.cli.tree import main

__all__ = ["main"]
