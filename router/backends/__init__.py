"""Adapters that talk to a Triton, and the launcher of a local one."""
