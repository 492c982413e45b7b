"""nginx with grpc_pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.bench import tools
from loadtest.bench.certificates import certificates
from loadtest.bench.peers.base import Launch

_CONFIG = """\
daemon off;
master_process off;
pid {folder}/{name}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    upstream models {{
        server 127.0.0.1:{backend_port};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} {speaks};
        http2_max_concurrent_streams 256;
        keepalive_requests 1000000000;
        client_max_body_size 0;
        client_body_buffer_size 1m;
        location / {{ grpc_pass grpc://models; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """One process, upstream connections kept."""

    name: str = "nginx"
    describes: str = "grpc_pass, upstream connections kept"
    share: float = 1.0
    answers_as: str = ""
    tls: bool = False

    def launch(self, *, port: int, backend_port: int, folder: Path) -> Launch:
        """See `Peer.launch`."""
        binary = tools.program("nginx")
        config = folder / f"{self.name}.conf"
        files = {"folder": folder, "name": self.name, "speaks": self._speaks(folder)}
        config.write_text(_CONFIG.format(port=port, backend_port=backend_port, **files))
        command = (binary, "-p", str(folder), "-c", str(config))
        return Launch(command, version=tools.first_line(binary, "-v"))

    def _speaks(self, folder: Path) -> str:
        if not self.tls:
            return "http2"
        made = certificates(folder)
        return f"http2 ssl; ssl_certificate {made.chain}; ssl_certificate_key {made.key}"
