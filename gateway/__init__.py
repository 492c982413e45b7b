"""The front door: configuration, data plane, admin API, CLI. Imports `router`, never the reverse."""

__version__ = "0.1.0"
