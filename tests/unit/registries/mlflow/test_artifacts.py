"""Files behind MLflow's artifact proxy: where a URI may lead, what a list may say, and what is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from router.errors import ArtifactChanged, ArtifactMissing, ArtifactRefused, ArtifactUnavailable
from router.ports import RemoteFile
from router.registries.mlflow import MlflowRegistry
from router.registries.mlflow.artifacts import ProxiedFiles
from router.registries.mlflow.rest import Server
from tests.servers.between import Answer, Asked, Between

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
URI = "mlflow-artifacts:/0/run/artifacts/model"
LARGE = b"0123456789" * 900_000


class Store:
    """The proxy over files in memory; `tag` is the ETag of each answer."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.tag: Callable[[], str] = lambda: '"steady"'
        self.ranges = True

    def answer(self, asked: Asked) -> Answer:
        """A script for `Between`."""
        url = urlsplit(asked.path)
        if url.path == PROXY:
            return self._list(parse_qs(url.query)["path"][0])
        content = self.files.get(url.path.removeprefix(f"{PROXY}/"))
        if content is None:
            said = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No such artifact"}
            return Answer(404, json.dumps(said).encode())
        tag = self.tag()
        wanted = asked.headers.get("range", "")
        if not wanted or not self.ranges or asked.headers.get("if-range", tag) != tag:
            return Answer(200, content, {"ETag": tag})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            return Answer(416)
        end = min(int(last or len(content)), len(content) - 1)
        told = {"ETag": tag, "Content-Range": f"bytes {first}-{end}/{len(content)}"}
        return Answer(206, content[int(first) : end + 1], told)

    def _list(self, folder: str) -> Answer:
        found: dict[str, dict[str, object]] = {}
        for path, content in self.files.items():
            if path.startswith(f"{folder}/"):
                name, slash, _ = path.removeprefix(f"{folder}/").partition("/")
                found[name] = {"path": name, "is_dir": bool(slash), "file_size": str(len(content))}
        return Answer(body=json.dumps({"files": list(found.values())}).encode())


@pytest.fixture
def store(server: Between) -> Store:
    """A model of three files."""
    root = "0/run/artifacts/model"
    made = Store({f"{root}/MLmodel": b"flavors", f"{root}/data/model.onnx": LARGE, f"{root}/empty": b""})
    server.script = made.answer
    return made


@pytest.fixture
def source(server: Between, store: Store) -> Iterator[ProxiedFiles]:
    """Access to them."""
    made = ProxiedFiles(Server("prod", server.uri), 5.0)
    yield made
    made.close()


def read(source: ProxiedFiles, file: RemoteFile, start: int = 0, end: int | None = None) -> bytes:
    """All that is given."""
    return b"".join(source.read(URI, file, start, end))


def onnx(source: ProxiedFiles) -> RemoteFile:
    """The large file as it is listed."""
    return next(file for file in source.files(URI) if file.path == "data/model.onnx")


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow-artifacts:/0/../../etc/passwd",
        "mlflow-artifacts:/0/%2e%2e/%2e%2e/etc",
        "mlflow-artifacts:/0/%252e%252e/etc",
        "mlflow-artifacts:/0/..%2f..%2fetc",
        "mlflow-artifacts:/0/a%5c..%5cb",
        "mlflow-artifacts:/0//etc",
        "mlflow-artifacts:/./0",
        "mlflow-artifacts:/0/a%00b",
        "mlflow-artifacts:/",
        "mlflow-artifacts://169.254.169.254/latest/meta-data",
        "mlflow-artifacts://other:5000/0/run",
        "mlflow-artifacts:/" + "a" * 2000,
    ],
)
def test_a_uri_that_leads_elsewhere_is_refused_before_anything_is_asked(
    registry: MlflowRegistry, server: Between, uri: str
) -> None:
    """However it is written."""
    source = registry.source(uri)
    assert source is not None
    with pytest.raises(ArtifactRefused):
        source.files(uri)
    with pytest.raises(ArtifactRefused):
        list(source.read(uri, RemoteFile("model.onnx"), 0, None))
    assert server.asked == []


def test_a_password_in_a_uri_is_not_told(registry: MlflowRegistry) -> None:
    """The refusal goes into logs; it names the host."""
    uri = "mlflow-artifacts://me:hunter2@other:5000/0/run"
    source = registry.source(uri)
    assert source is not None
    with pytest.raises(ArtifactRefused, match="//other:5000") as told:
        source.files(uri)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/model", "file:///etc", "https://host/model", "/etc", "models:/m-1"]
)
def test_other_stores_are_not_mlflows_to_give_access_to(registry: MlflowRegistry, uri: str) -> None:
    """Whether they may be used is the policy's to say."""
    assert registry.source(uri) is None


def test_the_proxys_own_addresses_are_known(registry: MlflowRegistry, server: Between, store: Store) -> None:
    """With a host it must be ours; the http form is the same place."""
    for uri in (
        URI.replace(":/", f"://{server.uri.removeprefix('http://')}/"),
        f"{server.uri}{PROXY}/{URI[18:]}",
    ):
        source = registry.source(uri)
        assert source is not None
        assert len(source.files(uri)) == 3
        source.close()
    assert registry.source(f"http://other:5000{PROXY}/0/run") is None


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../etc/passwd", "a\\b", "a\nb", "%2e%2e"])
def test_a_list_that_names_what_is_no_file_is_refused(
    source: ProxiedFiles, server: Between, name: str
) -> None:
    """Nothing of it is asked for."""
    listed = json.dumps({"files": [{"path": name, "is_dir": False, "file_size": 1}]}).encode()
    server.script = lambda _: Answer(body=listed)
    with pytest.raises(ArtifactRefused):
        source.files(URI)


@pytest.mark.parametrize("page", [b"<html>", b"[]", b'{"files": 7}', b'{"files": [{"is_dir": true}]}'])
def test_a_list_that_is_none_may_be_one_later(source: ProxiedFiles, server: Between, page: bytes) -> None:
    """It is unavailable, not missing."""
    server.script = lambda _: Answer(body=page)
    with pytest.raises(ArtifactUnavailable):
        source.files(URI)


def test_folders_without_end_are_refused(source: ProxiedFiles, server: Between) -> None:
    """Each holds another one."""
    listed = json.dumps({"files": [{"path": "a", "is_dir": True}]}).encode()
    server.script = lambda _: Answer(body=listed)
    with pytest.raises(ArtifactRefused, match="deeper than 32"):
        source.files(URI)


def test_what_is_not_there_is_missing(source: ProxiedFiles) -> None:
    """Neither a folder nor a file."""
    with pytest.raises(ArtifactMissing):
        source.files("mlflow-artifacts:/0/run/artifacts/other")


def test_files_are_read_whole_and_in_parts(source: ProxiedFiles, store: Store) -> None:
    """Also where the server knows no ranges."""
    file = onnx(source)
    for store.ranges in (True, False):
        assert file.size == len(LARGE)
        assert read(source, file) == LARGE
        assert read(source, file, 10, 25) == LARGE[10:25]
        assert read(source, file, len(LARGE) - 3) == LARGE[-3:]
    assert read(source, next(file for file in source.files(URI) if file.path == "empty")) == b""


def test_a_file_that_was_replaced_is_noticed(source: ProxiedFiles, store: Store) -> None:
    """By its size, and by its ETag."""
    file = onnx(source)
    assert read(source, file, 0, 10) == LARGE[:10]
    store.tag = lambda: '"another"'
    with pytest.raises(ArtifactChanged):
        read(source, file, 10, 20)
    store.tag = lambda: '"steady"'
    store.files["0/run/artifacts/model/data/model.onnx"] = LARGE[:-1]
    with pytest.raises(ArtifactChanged, match="had 9000000 bytes and now has 8999999"):
        read(source, file)
    with pytest.raises(ArtifactChanged, match="shorter"):
        read(source, file, len(LARGE) - 1)


def test_where_each_part_costs_the_whole_nobody_is_told_to_ask_for_parts(
    source: ProxiedFiles, store: Store
) -> None:
    """MLflow with S3 behind it sends a new copy each time, which has a new ETag; small files are told of."""
    copies = iter(range(100))
    store.tag = lambda: f'"{next(copies)}"'
    sizes = {file.path: file.size for file in source.files(URI)}

    assert sizes == {"MLmodel": 7, "data/model.onnx": None, "empty": 0}


def test_a_cut_is_unavailable(source: ProxiedFiles, server: Between) -> None:
    """What came before it is given."""
    file = onnx(source)
    server.script = lambda _: Answer(200, LARGE[: len(LARGE) // 2], cut=True)
    with pytest.raises(ArtifactUnavailable):
        read(source, file)


def test_a_redirect_is_not_followed(source: ProxiedFiles, server: Between) -> None:
    """Neither to another host nor to another path."""
    file = onnx(source)
    server.asked.clear()
    server.script = lambda _: Answer(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})
    with pytest.raises(ArtifactUnavailable, match="redirect"):
        read(source, file)
    assert len(server.asked) == 1


def test_one_that_is_closed_asks_nobody_again(source: ProxiedFiles, server: Between) -> None:
    """Whoever still is at it in a thread that was left behind ends with its next question."""
    source.files(URI)
    asked = len(server.asked)
    source.close()
    with pytest.raises(ArtifactUnavailable, match="closed"):
        source.files(URI)

    assert len(server.asked) == asked
