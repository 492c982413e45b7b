"""A gateway with certificates, under the load of stock clients."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import Gateway, start_gateway, wait_until
from tests.e2e.pki import Authority, Pair, h2_context
from tests.e2e.test_takeover import Callers, backend, body

__all__ = ["backend"]

TLS = "tls: {cert: server.pem, key: server.key, client_ca: ca.pem}\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that everybody trusts."""
    return Authority(tmp_path_factory.mktemp("pki"), "ours")


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Pair:
    """The certificate of the clients."""
    return authority.issue("caller", "URI:spiffe://team/caller")


@pytest.fixture
def gateway(backend: str, authority: Authority, tmp_path: Path) -> Iterator[Gateway]:
    """It demands certificates of its clients."""
    folder = tmp_path / "inner"
    folder.mkdir()
    authority.issue("first").over(Pair(folder / "server.pem", folder / "server.key"))
    shutil.copy(authority.cert, folder / "ca.pem")
    running = start_gateway(folder, "gateway", body(backend) + TLS, folder)
    yield running
    running.stop(signal.SIGKILL)


def shown(gateway: Gateway, authority: Authority, caller: Pair) -> bytes:
    """The certificate that the gateway shows now."""
    host, _, port = gateway.inference.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as raw,
        h2_context(authority.cert, caller).wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True) or b""


def der(pair: Pair) -> bytes:
    """The certificate of a pair."""
    return ssl.PEM_cert_to_DER_cert(pair.cert.read_text())


def test_certificates_change_under_load_and_no_call_notices(
    gateway: Gateway, authority: Authority, caller: Pair
) -> None:
    """By `stagegate reload`, by the files alone, and not by a pair that has run out."""
    here = Pair(gateway.folder / "server.pem", gateway.folder / "server.key")
    cert, key = caller.contents
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), key, cert)
    with Callers(gateway.inference, credentials) as callers:
        second, third = authority.issue("second"), authority.issue("third")
        second.over(here)
        assert gateway.json("reload")["needs_restart"] == []
        assert shown(gateway, authority, caller) == der(second)
        authority.issue("late", expired=True).over(here)
        wait_until("it is refused", lambda: "cert: is no longer valid" in gateway.said())
        assert shown(gateway, authority, caller) == der(second)
        assert "stagegate_tls_certificates_refused_total 1.0" in gateway.http("/metrics")[1]
        refused = gateway.cli("reload", check=False)
        assert refused.returncode != 0
        assert "no longer valid" in refused.stderr + refused.stdout
        third.over(here)
        wait_until("it is taken", lambda: shown(gateway, authority, caller) == der(third))
    assert callers.failures == []
    assert 'stagegate_tls_certificate_expiry_seconds{certificate="listen"}' in gateway.http("/metrics")[1]
    assert gateway.stop() == 0


def test_stock_clients_and_another_gateway_get_in_with_a_certificate(
    gateway: Gateway, authority: Authority, caller: Pair, tmp_path: Path
) -> None:
    """tritonclient with its own options, REST, and a gateway that takes this one for its Triton."""
    client = triton.InferenceServerClient(
        gateway.inference,
        ssl=True,
        root_certificates=str(authority.cert),
        private_key=str(caller.key),
        certificate_chain=str(caller.cert),
    )
    assert client.is_server_ready()
    client.close()
    context = h2_context(authority.cert, caller, alpn=("http/1.1",))
    with urllib.request.urlopen(
        f"https://{gateway.rest}/v2/health/ready", context=context, timeout=5
    ) as answer:
        assert answer.status == 200
    tls = f"{{ca: {authority.cert}, cert: {caller.cert}, key: {caller.key}, server_name: localhost}}"
    front = tmp_path / "front"
    front.mkdir()
    outer = start_gateway(
        front,
        "gateway",
        f'backends: [{{name: inner, grpc: "{gateway.inference}", tls: {tls}}}]\n',
        front,
    )
    try:
        with Callers(outer.inference) as callers:
            wait_until("they are answered", lambda: callers.answers > 50)
        assert callers.failures == []
    finally:
        assert outer.stop() == 0
