"""TLS towards clients and towards Tritons, with certificates made by openssl."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.bridge import DataPlane, Settings
from gateway.certificates import Certificates, read_material
from gateway.config import GatewayConfig, parse_config
from router.errors import InvalidInput
from tests.e2e.conftest import wait_until
from tests.e2e.pki import Authority, Pair, h2_context
from tests.e2e.raw import Backend, Client, frame, request, tensor
from tests.e2e.test_raw_frames import HASTY, SMALL, table, table_at

OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
WHOLE = frame(request(rest=tensor(100)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The one that everybody trusts."""
    return Authority(tmp_path_factory.mktemp("pki"), "ours")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    """The gateway's certificate."""
    return authority.issue("server")


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend that answers every call with an empty message."""
    running = Backend()
    yield running
    running.stop()


def start(
    backend: Backend, server: Pair, client_ca: Path | None = None, settings: Settings = SMALL
) -> DataPlane:
    """A data plane with this certificate."""
    cert, key = server.contents
    ca = client_ca.read_bytes() if client_ca else b""
    plane = DataPlane(replace(settings, tls_cert=cert, tls_key=key, tls_client_ca=ca))
    plane.publish(table(backend))
    plane.set_ready(True)
    return plane


@pytest.fixture
def plane(backend: Backend, server: Pair) -> Iterator[DataPlane]:
    """One that asks clients for nothing."""
    running = start(backend, server)
    yield running
    running.stop()


@pytest.fixture
def strict(backend: Backend, server: Pair, authority: Authority) -> Iterator[DataPlane]:
    """One that demands a certificate of clients."""
    running = start(backend, server, authority.cert)
    yield running
    running.stop()


def refused(plane: DataPlane, context: ssl.SSLContext) -> bool:
    """Whether a client with this context is sent away before it can ask for anything."""
    raw = socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5)
    with raw:
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as wrapped:
                # With TLS 1.3 the client is done before the server has looked at its certificate.
                wrapped.sendall(OPENING)
                return wrapped.recv(100) == b""
        except (ssl.SSLError, ConnectionError):
            return True


class TestClients:
    """Who gets in, and in what they speak."""

    def test_a_call_crosses(self, plane: DataPlane, authority: Authority) -> None:
        """Small, and large enough for many records both ways."""
        with Client(plane.inference_port, tls=h2_context(authority.cert)) as client:
            assert client.call(WHOLE).code == 0
            assert client.call(frame(request(rest=tensor(900_000)))).code == 0

    def test_rest_has_the_same_certificate(
        self, backend: Backend, server: Pair, authority: Authority
    ) -> None:
        """On its own port, with HTTP/1.1 inside."""
        cert, key = server.contents
        running = DataPlane(replace(SMALL, tls_cert=cert, tls_key=key, http_host="127.0.0.1"))
        try:
            context = ssl.create_default_context(cafile=str(authority.cert))
            connection = http.client.HTTPSConnection(
                "localhost", running.http_port, timeout=10, context=context
            )
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"live":true}')
            connection.close()
        finally:
            running.stop()

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_both_versions_of_tls(
        self, plane: DataPlane, authority: Authority, version: ssl.TLSVersion
    ) -> None:
        """1.2 and 1.3; older ones are not to be had."""
        context = h2_context(authority.cert)
        context.minimum_version = context.maximum_version = version
        with Client(plane.inference_port, tls=context) as client:
            assert client.call(WHOLE).code == 0

    @pytest.mark.parametrize("alpn", [(), ("http/1.1",)], ids=["silent", "http/1.1"])
    def test_who_does_not_agree_to_h2_is_sent_away(
        self, plane: DataPlane, authority: Authority, alpn: tuple[str, ...]
    ) -> None:
        """The gRPC port speaks HTTP/2 and nothing else."""
        assert refused(plane, h2_context(authority.cert, alpn=alpn))

    def test_plaintext_gets_nothing(self, plane: DataPlane) -> None:
        """A client that forgot TLS is closed, not served."""
        with Client(plane.inference_port) as client:
            client.open()
            assert client.pump(lambda: client.closed, 5)
            assert not any(answer.over for answer in client.answers.values())

    def test_a_silent_client_is_closed_in_time(self, backend: Backend, server: Pair) -> None:
        """The handshake has a bound (700 ms here), and it holds nobody else up."""
        plane = start(backend, server, settings=HASTY)
        try:
            with socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5) as silent:
                began = time.monotonic()
                assert silent.recv(1) == b""
                assert time.monotonic() - began < 4
        finally:
            plane.stop()

    def test_a_session_is_resumed(self, plane: DataPlane, authority: Authority) -> None:
        """The second handshake needs no certificate."""
        context = h2_context(authority.cert)
        session = None
        for resumed in (False, True):
            raw = socket.create_connection(("127.0.0.1", plane.inference_port), timeout=5)
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as wrapped:
                wrapped.sendall(OPENING)
                assert wrapped.recv(100)
                assert wrapped.session_reused is resumed
                session = wrapped.session


class TestCertificatesOfClients:
    """mTLS."""

    def test_a_certificate_of_ours_gets_in(self, strict: DataPlane, authority: Authority) -> None:
        """With one URI name, as a SPIFFE id is."""
        pair = authority.issue("caller", "URI:spiffe://team/caller")
        with Client(strict.inference_port, tls=h2_context(authority.cert, pair)) as client:
            assert client.call(WHOLE).code == 0

    def test_none_is_refused(self, strict: DataPlane, authority: Authority) -> None:
        """At the handshake."""
        assert refused(strict, h2_context(authority.cert))

    def test_a_foreign_one_is_refused(self, strict: DataPlane, authority: Authority, tmp_path: Path) -> None:
        """Of an authority that is not in `client_ca`."""
        foreign = Authority(tmp_path, "theirs").issue("caller")
        assert refused(strict, h2_context(authority.cert, foreign))

    def test_an_expired_one_is_refused(self, strict: DataPlane, authority: Authority) -> None:
        """However good it once was."""
        assert refused(strict, h2_context(authority.cert, authority.issue("late", expired=True)))

    def test_several_uri_names_are_refused(self, strict: DataPlane, authority: Authority) -> None:
        """Nobody could tell who it is (X509-SVID)."""
        twins = authority.issue("twins", "URI:spiffe://team/a", "URI:spiffe://team/b")
        assert refused(strict, h2_context(authority.cert, twins))

    def test_no_session_outlives_its_certificate(self, strict: DataPlane, authority: Authority) -> None:
        """Every handshake shows it."""
        context = h2_context(authority.cert, authority.issue("again"))
        session = None
        for _ in range(2):
            raw = socket.create_connection(("127.0.0.1", strict.inference_port), timeout=5)
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as wrapped:
                wrapped.sendall(OPENING)
                assert wrapped.recv(100)
                assert not wrapped.session_reused
                session = wrapped.session


class TestReload:
    """Other certificates while it runs."""

    def test_a_new_one_is_shown_to_new_clients_and_old_ones_stay(
        self, plane: DataPlane, authority: Authority, tmp_path: Path
    ) -> None:
        """A connection that is open goes on; the next meets the new authority."""
        other = Authority(tmp_path, "other")
        with Client(plane.inference_port, tls=h2_context(authority.cert)) as before:
            assert before.call(WHOLE).code == 0
            plane.set_tls(*other.issue("server").contents, b"")
            assert before.call(WHOLE).code == 0
        assert refused(plane, h2_context(authority.cert))
        with Client(plane.inference_port, tls=h2_context(other.cert)) as after:
            assert after.call(WHOLE).code == 0

    @pytest.mark.parametrize("fault", ["expired", "mismatched", "no PEM", "bad client_ca"])
    def test_a_bad_one_is_refused_and_the_old_one_stays(
        self, plane: DataPlane, authority: Authority, fault: str
    ) -> None:
        """With the reason in words."""
        good = authority.issue("good")
        cert, key, ca, why = {
            "expired": (*authority.issue("old", expired=True).contents, b"", "no longer valid"),
            "mismatched": (good.contents[0], authority.issue("else").contents[1], b"", "belong together"),
            "no PEM": (b"-----", good.contents[1], b"", "cert: holds no certificate"),
            "bad client_ca": (*good.contents, b"nothing", "client_ca: holds no certificate"),
        }[fault]
        with pytest.raises(ValueError, match=why):
            plane.set_tls(cert, key, ca)
        with Client(plane.inference_port, tls=h2_context(authority.cert)) as client:
            assert client.call(WHOLE).code == 0


class TestFiles:
    """The certificates of a configuration, and what becomes of them on disk."""

    @staticmethod
    def config(folder: Path, more: str = "") -> GatewayConfig:
        """One that names `server.pem` and `server.key` in a folder."""
        text = 'backends: [{name: t0, grpc: "127.0.0.1:1"}]\ntls: {cert: server.pem, key: server.key}\n'
        return parse_config(text + more, "stagegate.yaml", folder, {})

    async def test_files_that_change_are_taken_once_they_fit(
        self, backend: Backend, authority: Authority, tmp_path: Path
    ) -> None:
        """Half a change is waited out, a bad one is refused and counted, a good one is shown to clients."""
        here = Pair(tmp_path / "server.pem", tmp_path / "server.key")
        authority.issue("first").over(here)
        other = Authority(tmp_path, "other")
        config = self.config(tmp_path)
        material = read_material(config)
        plane = start(backend, here)
        certificates = Certificates(config, material, plane)
        watch = asyncio.create_task(certificates.watch(0.05))
        try:
            authority.issue("late", expired=True).over(here)
            await until(lambda: certificates.refused == 1)
            assert certificates.expiry == material.expiry
            assert not await asyncio.to_thread(refused, plane, h2_context(authority.cert))
            other.issue("second").over(here)
            await until(lambda: material is not certificates.material)
            assert certificates.refused == 1
            assert await asyncio.to_thread(refused, plane, h2_context(authority.cert))
            assert not await asyncio.to_thread(refused, plane, h2_context(other.cert))
        finally:
            watch.cancel()
            plane.stop()

    def test_what_cannot_be_used_is_named_with_key_and_file(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        """Each kind of mistake, as an operator would meet it."""
        config = self.config(tmp_path)
        with pytest.raises(InvalidInput, match=r"tls.cert: .*server.pem cannot be read: No such file"):
            read_material(config)
        here = Pair(tmp_path / "server.pem", tmp_path / "server.key")
        authority.issue("late", expired=True).over(here)
        with pytest.raises(InvalidInput, match=r"tls: cert: is no longer valid \(in .*server.pem, "):
            read_material(config)
        here.key.write_text("")
        with pytest.raises(InvalidInput, match=r"tls.key: .*server.key is empty"):
            read_material(config)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, at most 10 s."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


class TestBackends:
    """A second data plane as the Triton that speaks TLS."""

    @pytest.fixture
    def behind(self, backend: Backend, authority: Authority) -> Iterator[DataPlane]:
        """It demands a certificate, and its own is for another name than its address."""
        running = start(backend, authority.issue("inner", "DNS:triton.internal"), authority.cert)
        yield running
        running.stop()

    def test_it_is_spoken_to_with_our_certificate(self, behind: DataPlane, authority: Authority) -> None:
        """Its certificate is checked against `server_name`."""
        plane = DataPlane(SMALL)
        ours = authority.issue("gateway").contents
        plane.set_backend_tls("t0", authority.cert.read_bytes(), *ours, "triton.internal")
        plane.publish(table_at(f"127.0.0.1:{behind.inference_port}", "digits"))
        try:
            with Client(plane.inference_port) as client:
                assert client.call(WHOLE).code == 0
        finally:
            plane.stop()

    def test_what_is_open_is_replaced_when_another_way_is_told(
        self, behind: DataPlane, authority: Authority, tmp_path: Path
    ) -> None:
        """Nothing goes over a connection that today's certificates would not allow, nor in the old way."""
        plane = DataPlane(SMALL)
        ours = authority.issue("gateway").contents
        right = authority.cert.read_bytes()
        plane.set_backend_tls("t0", right, *ours, "triton.internal")
        plane.publish(table_at(f"127.0.0.1:{behind.inference_port}", "digits"))
        try:
            with Client(plane.inference_port) as client:
                assert client.call(WHOLE).code == 0
                plane.set_backend_tls("t0", Authority(tmp_path, "other").cert.read_bytes(), *ours, "")
                wait_until("it is not trusted", lambda: client.call(WHOLE).code == 14)
                plane.set_backend_tls("t0", right, *ours, "triton.internal")
                wait_until("it is trusted again", lambda: client.call(WHOLE).code == 0)
                plane.clear_backend_tls("t0")
                wait_until("plaintext is not understood", lambda: client.call(WHOLE).code == 14)
        finally:
            plane.stop()

    @pytest.mark.parametrize(
        "fault", ["no certificate of ours", "another name", "another authority", "plaintext"]
    )
    def test_what_does_not_fit_is_unavailable(
        self, behind: DataPlane, authority: Authority, tmp_path: Path, fault: str
    ) -> None:
        """And nothing is sent."""
        plane = DataPlane(SMALL)
        ours, none = authority.issue("gateway").contents, (b"", b"")
        ca = authority.cert.read_bytes()
        other = Authority(tmp_path, "other").cert.read_bytes()
        match fault:
            case "no certificate of ours":
                plane.set_backend_tls("t0", ca, *none, "triton.internal")
            case "another name":
                plane.set_backend_tls("t0", ca, *ours, "")
            case "another authority":
                plane.set_backend_tls("t0", other, *ours, "triton.internal")
        plane.publish(table_at(f"127.0.0.1:{behind.inference_port}", "digits"))
        try:
            with Client(plane.inference_port) as client:
                assert client.call(WHOLE).code == 14
        finally:
            plane.stop()
