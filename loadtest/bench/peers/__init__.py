"""The proxies that are measured, each with one worker, in the order of the tables."""

from __future__ import annotations

from loadtest.bench.peers.base import Direct, Launch, Peer
from loadtest.bench.peers.envoy import Envoy
from loadtest.bench.peers.grpc_aio import GrpcAio
from loadtest.bench.peers.haproxy import HaproxyHttp, HaproxyTcp
from loadtest.bench.peers.nginx import Nginx
from loadtest.bench.peers.stagegate import Dataplane, Gateway

DIRECT = Direct()

__all__ = ["DIRECT", "Launch", "Peer", "all_peers"]


def all_peers() -> tuple[Peer, ...]:
    """One of each, and some once more with TLS towards their clients."""
    plain = (Dataplane(), Gateway(), HaproxyTcp(), HaproxyHttp(), Nginx(), Envoy(), GrpcAio())
    return (
        *plain,
        Dataplane("stagegate-tls", "the same, TLS towards clients", tls=True),
        HaproxyHttp("haproxy-tls", "the same, TLS towards clients", tls=True),
        Nginx("nginx-tls", "the same, TLS towards clients", tls=True),
    )
