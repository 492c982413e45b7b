"""Decisions of the gateway: which version answers, where it is loaded, what changes when.

Nothing here knows how a client reaches the gateway; `gateway` imports `router`, never the reverse.
"""
