"""The S3 registry on a real S3 server, with a proxy in between where something is to fail."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest

from router.artifacts.digest import digest_of
from router.artifacts.fetch import Fetcher
from router.artifacts.policy import Origin
from router.errors import (
    Conflict,
    InvalidInput,
    ModelNotFound,
    NotSupported,
    RegistryUnavailable,
    VersionNotFound,
)
from router.model import ModelName, PointerKind, RegisteredModel, VersionId
from router.ports import AliasChange, Hint, NewVersion, StageTransition, TagChange, Unknown
from router.registries import s3
from router.registries.s3 import S3Registry, objects, writing
from router.registries.s3 import registry as registry_module
from tests.servers.faults import Fault, Proxy
from tests.servers.s3 import Server

DIGITS = ModelName("digits")
VERSION = "format: onnx\nartifact: model.onnx\n"


class Bucket:
    """A prefix with one model of two versions, as a person would fill it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        self.prefix = secrets.token_hex(4)
        self.put("digits/model.yaml", 'stages: {production: "1"}\naliases: {champion: "2"}\n')
        for version in ("1", "2"):
            self.put(f"digits/{version}/version.yaml", VERSION)

    def put(self, path: str, text: str) -> None:
        """Write an object below the prefix."""
        self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/{path}", Body=text.encode())

    def text(self, path: str) -> str:
        """What an object holds."""
        with self.client.get_object(Bucket=self.name, Key=f"{self.prefix}/{path}")["Body"] as body:
            return str(body.read().decode())

    def listed(self) -> list[str]:
        """All keys."""
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=self.prefix).get("Contents", ())
        return [entry["Key"] for entry in found]

    def remove(self, path: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=self.name, Key=f"{self.prefix}/{path}")


@pytest.fixture(scope="module")
def client(s3_server: Server) -> Iterator[Any]:
    """One for all tests: to make one costs more than most of them."""
    with contextlib.closing(s3_server.client()) as made:
        yield made


@pytest.fixture(scope="module")
def name(s3_server: Server) -> str:
    """The name of a bucket; each test has a prefix in it."""
    return s3_server.bucket("unit-tests")


@pytest.fixture
def bucket(client: Any, name: str) -> Bucket:
    """A new prefix."""
    return Bucket(client, name)


Open = Callable[..., S3Registry]


@pytest.fixture
async def opened(bucket: Bucket, s3_proxy: Proxy) -> AsyncIterator[Open]:
    """Opens the registry through the proxy."""
    made: list[S3Registry] = []

    def make(**options: Any) -> S3Registry:
        given = {
            "uri": f"s3://{bucket.name}/{bucket.prefix}/",
            "endpoint": s3_proxy.url,
            "access_key": lambda: "stagegate-tests",
            "secret_key": lambda: "not-a-secret-0123456789",
            "poll": 0.02,
            "timeout": 60.0,
        }
        found = s3.TYPE.open("local", {**given, **options})
        assert isinstance(found, S3Registry)
        made.append(found)
        return found

    yield make
    for registry in made:
        await registry.close()


async def digits(registry: S3Registry) -> RegisteredModel:
    """The model as it is read now."""
    return (await registry.read()).models[DIGITS]


async def test_a_model_is_read(opened: Open, bucket: Bucket) -> None:
    """A path beside the manifest becomes a URI; a URI stays what it is."""
    bucket.put("digits/3/version.yaml", "format: onnx\nartifact: s3://other/key\n")
    model = await digits(opened())

    assert (model.stages, model.aliases) == ({"production": "1"}, {"champion": "2"})
    assert [version.artifact for version in model.versions.values()] == [
        f"s3://{bucket.name}/{bucket.prefix}/digits/1/model.onnx",
        f"s3://{bucket.name}/{bucket.prefix}/digits/2/model.onnx",
        "s3://other/key",
    ]


async def test_only_what_changed_is_read(opened: Open, bucket: Bucket, s3_proxy: Proxy) -> None:
    """A look is one request; a moved alias is one more."""
    registry = opened()
    before = await registry.read()
    s3_proxy.seen.clear()

    assert await registry.read() is before
    assert len(s3_proxy.seen) == 1
    bucket.put("digits/model.yaml", 'aliases: {champion: "1"}\n')
    assert (await digits(registry)).aliases == {"champion": "1"}
    assert [path for _, path in s3_proxy.seen if "list-type" not in path] == [
        f"/{bucket.name}/{bucket.prefix}/digits/model.yaml"
    ]


async def test_pages_are_all_read(
    opened: Open, bucket: Bucket, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys with odd characters among them; only manifests are models."""
    monkeypatch.setattr(objects, "PAGE", 5)
    for number in range(12):
        bucket.put(f"a+b/{number} ü&", "")
    bucket.put("z-last/1/version.yaml", VERSION)
    bucket.put("z-last/1/deeper/version.yaml", VERSION)
    bucket.put(".hidden/1/version.yaml", VERSION)
    bucket.put("z-last/2.tmp/version.yaml", VERSION)
    registry = opened()
    view = await registry.read()

    assert (sorted(view.models), view.problems) == (["digits", "z-last"], ())
    assert list(view.models[ModelName("z-last")].versions) == ["1"]
    s3_proxy.seen.clear()
    assert await registry.read() is view
    assert len(s3_proxy.seen) == 4


async def test_with_a_hint_one_model_is_asked_for(opened: Open, bucket: Bucket, s3_proxy: Proxy) -> None:
    """The others are as they were read last, until somebody reads all."""
    bucket.put("other/1/version.yaml", VERSION)
    registry = opened()
    await registry.read()
    bucket.put("other/2/version.yaml", VERSION)
    bucket.put("digits/model.yaml", 'aliases: {champion: "1"}\n')
    s3_proxy.seen.clear()
    view = await registry.read(Hint(DIGITS, "champion"))

    assert view.models[DIGITS].aliases == {"champion": "1"}
    assert list(view.models[ModelName("other")].versions) == ["1"]
    assert ["digits" in unquote(path) for _, path in s3_proxy.seen] == [True, True]
    assert list((await registry.read()).models[ModelName("other")].versions) == ["1", "2"]


async def test_what_a_hint_brought_and_was_taken_back_is_seen(opened: Open, bucket: Bucket) -> None:
    """Though the listing then is the one before."""
    registry = opened()
    first = bucket.text("digits/model.yaml")
    assert (await digits(registry)).aliases == {"champion": "2"}
    bucket.put("digits/model.yaml", 'aliases: {champion: "1"}\n')
    assert (await registry.read(Hint(DIGITS))).models[DIGITS].aliases == {"champion": "1"}
    bucket.put("digits/model.yaml", first)

    assert (await digits(registry)).aliases == {"champion": "2"}


async def test_questions_are_asked_of_the_bucket(opened: Open, bucket: Bucket, s3_proxy: Proxy) -> None:
    """And have an answer, no such thing, or unknown."""
    registry = opened()
    bucket.put("digits/model.yaml", 'stages: {production: "2"}\n')

    assert await registry.resolve(DIGITS, PointerKind.STAGE, "Production") == "2"
    assert await registry.resolve(DIGITS, PointerKind.ALIAS, "champion") is None
    assert await registry.get(DIGITS, VersionId("9")) is None
    assert await registry.get(ModelName("absent"), VersionId("1")) is None
    s3_proxy.fail(Fault.BUSY)
    assert isinstance(await registry.get(DIGITS, VersionId("1")), Unknown)


async def test_models_are_taken_by_globs(opened: Open, bucket: Bucket) -> None:
    """The others are not even read."""
    bucket.put("other/1/version.yaml", "format: [")

    view = await opened(models=("dig*",)).read()
    assert (list(view.models), view.problems) == ([DIGITS], ())


async def test_a_half_written_manifest_keeps_its_last_good_reading(opened: Open, bucket: Bucket) -> None:
    """The other manifests go on."""
    registry = opened()
    before = await digits(registry)
    bucket.put("digits/model.yaml", "stages: {produ")
    bucket.put("digits/3/version.yaml", "format: onnx\n")
    view = await registry.read()

    assert view.models[DIGITS] == before
    assert [problem.subject for problem in view.problems] == ["digits/3", "digits"]
    assert "the last good reading goes on" in view.problems[1].message


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.CUT, Fault.AWAY])
async def test_an_object_that_cannot_be_read_is_read_again(
    opened: Open, bucket: Bucket, s3_proxy: Proxy, fault: Fault
) -> None:
    """Though nothing changes any more; the others are taken in at once."""
    registry = opened()
    await registry.read()
    bucket.put("digits/2/version.yaml", "format: triton\nartifact: m\n")
    bucket.put("digits/model.yaml", 'stages: {production: "2"}\n')
    s3_proxy.fail(fault, "/2/version.yaml")
    view = await registry.read()

    assert view.models[DIGITS].stages == {"production": "2"}
    assert view.models[DIGITS].versions[VersionId("2")].format == "onnx"
    assert [problem.subject for problem in view.problems] == ["digits/2"]
    s3_proxy.heal()
    view = await registry.read()
    assert (view.models[DIGITS].versions[VersionId("2")].format, view.problems) == ("triton", ())


async def test_an_object_that_stays_unreadable_holds_up_no_other(
    opened: Open, bucket: Bucket, s3_proxy: Proxy
) -> None:
    """Where nothing else changed either: the registry answers, and one manifest of it is a problem."""
    registry = opened()
    before = (await registry.read()).models[DIGITS]
    bucket.put("digits/2/version.yaml", "format: triton\nartifact: m\n")
    s3_proxy.fail(Fault.ERROR, "/2/version.yaml")
    views = [await registry.read() for _ in range(3)]

    assert [view.models[DIGITS] for view in views] == [before] * 3
    assert [problem.subject for view in views for problem in view.problems] == ["digits/2"] * 3


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.BUSY, Fault.CUT, Fault.AWAY, Fault.NONSENSE])
async def test_a_bucket_that_fails_is_unavailable(opened: Open, s3_proxy: Proxy, fault: Fault) -> None:
    """Whatever it says; and what was read is there again afterwards."""
    registry = opened()
    before = await registry.read()
    s3_proxy.fail(fault)
    with pytest.raises(RegistryUnavailable, match="registry 'local'") as problem:
        await registry.read()
    s3_proxy.heal()

    assert "not-a-secret" not in str(problem.value)
    assert len(problem.value.message) <= 500
    assert await registry.read() == before


async def test_one_that_never_answers_is_given_up_in_time(
    opened: Open, bucket: Bucket, s3_proxy: Proxy
) -> None:
    """And the next question is asked over a new connection."""
    registry = opened(timeout=1.0)
    s3_proxy.fail(Fault.HANG)
    async with asyncio.timeout(10):
        with pytest.raises(RegistryUnavailable):
            await registry.read()
        with pytest.raises(RegistryUnavailable):
            await registry.write(AliasChange(DIGITS, "champion", VersionId("1")))
    s3_proxy.heal()

    assert list((await registry.read()).models) == [DIGITS]


async def test_wrong_keys_and_no_bucket_are_told(opened: Open, bucket: Bucket) -> None:
    """With what to look at."""
    with pytest.raises(RegistryUnavailable, match="look at its keys"):
        await opened(secret_key=lambda: "wrong").read()
    with pytest.raises(RegistryUnavailable, match="NoSuchBucket"):
        await opened(uri="s3://no-such-bucket/m").read()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"secret_key": None}, "both `access_key` and `secret_key`"),
        ({"files": "s3://elsewhere/files"}, "must be a prefix in bucket"),
    ],
)
def test_options_that_contradict_each_other(opened: Open, options: dict[str, Any], error: str) -> None:
    """When it is opened."""
    with pytest.raises(InvalidInput, match=error):
        opened(**options)


def test_a_place_that_is_no_bucket_is_refused() -> None:
    """By the check of the option, which knows the line."""
    check = next(option.check for option in s3.TYPE.options if option.name == "uri")
    assert check is not None
    check("s3://bucket")
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        check("/srv/models")


async def test_a_poll_is_one_look(opened: Open, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint asks for nothing by itself; while the bucket is away, hints come less and less often."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    registry = opened(poll=5.0)
    view = await registry.read()
    s3_proxy.seen.clear()
    monkeypatch.setattr(asyncio, "sleep", sleep)
    changes = registry.changes()
    for _ in range(2):
        assert await anext(changes) == Hint()
        assert await registry.read() is view
    assert len(s3_proxy.seen) == 2

    s3_proxy.fail(Fault.ERROR)
    for _ in range(2):
        await anext(changes)
        with pytest.raises(RegistryUnavailable):
            await registry.read()
    await anext(changes)
    assert [round(seconds / 5) for seconds in slept] == [1, 1, 1, 2, 4]


async def test_with_a_mark_a_poll_asks_for_that_alone(
    opened: Open, bucket: Bucket, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is listed where the mark changed, once a minute, and always where there is no mark."""
    registry, other = opened(mark="CHANGED"), opened(mark="CHANGED")

    async def asked() -> list[str]:
        s3_proxy.seen.clear()
        view = await registry.read()
        assert view.problems == ()
        return [method for method, _ in s3_proxy.seen]

    await registry.read()
    assert await asked() == ["HEAD", "GET"]
    bucket.put("CHANGED", "1")
    assert await asked() == ["HEAD", "GET"]
    assert await asked() == ["HEAD"]

    bucket.put("digits/model.yaml", 'aliases: {champion: "1"}\n')
    assert await asked() == ["HEAD"]
    bucket.put("CHANGED", "2")
    assert (await digits(registry)).aliases == {"champion": "1"}
    assert await asked() == ["HEAD"]
    await other.write(AliasChange(DIGITS, "champion", VersionId("2")))
    assert (await digits(registry)).aliases == {"champion": "2"}
    bucket.put("digits/model.yaml", "{}\n")
    monkeypatch.setattr(registry_module, "LIST_SECONDS", 0.0)
    assert (await digits(registry)).aliases == {}


async def test_with_a_mark_a_model_is_asked_for_all_the_same(opened: Open, bucket: Bucket) -> None:
    """By a hint; and the next reading of everything lists all."""
    bucket.put("CHANGED", "1")
    registry = opened(mark="CHANGED")
    await registry.read()
    bucket.put("digits/model.yaml", 'aliases: {champion: "1"}\n')
    view = await registry.read(Hint(DIGITS))
    assert view.models[DIGITS].aliases == {"champion": "1"}
    bucket.put("digits/model.yaml", "{}\n")

    assert (await digits(registry)).aliases == {}


async def test_what_is_registered_is_marked(opened: Open, bucket: Bucket, files: Path) -> None:
    """After it is whole."""
    await opened(mark="CHANGED").register(new(files))

    assert bucket.text("CHANGED")


async def test_pointers_and_tags_are_written(opened: Open, bucket: Bucket) -> None:
    """Comments stay; what is so already is not written."""
    registry = opened()
    bucket.put("digits/model.yaml", 'stages:\n  production: "1"  # live\n')
    await registry.write(StageTransition(DIGITS, VersionId("2"), "Production"))
    await registry.write(AliasChange(DIGITS, "champion", VersionId("1")))
    await registry.write(TagChange(DIGITS, VersionId("1"), "stagegate.state", "live"))
    before = bucket.client.head_object(Bucket=bucket.name, Key=f"{bucket.prefix}/digits/model.yaml")[
        "LastModified"
    ]
    await registry.write(AliasChange(DIGITS, "champion", VersionId("1")))

    assert bucket.text("digits/model.yaml").startswith('stages:\n  production: "2"  # live\n')
    assert (
        bucket.client.head_object(Bucket=bucket.name, Key=f"{bucket.prefix}/digits/model.yaml")[
            "LastModified"
        ]
        == before
    )
    model = await digits(registry)
    assert (model.stages, model.aliases) == ({"production": "2"}, {"champion": "1"})
    assert model.versions[VersionId("1")].tags == {"stagegate.state": "live"}


async def test_a_model_file_is_made_where_there_is_none(opened: Open, bucket: Bucket) -> None:
    """Under the condition that nobody else makes it."""
    bucket.remove("digits/model.yaml")
    await opened().write(AliasChange(DIGITS, "champion", VersionId("1")))

    assert (await digits(opened())).aliases == {"champion": "1"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (AliasChange(ModelName("absent"), "a", VersionId("1")), ModelNotFound),
        (AliasChange(ModelName("absent"), "a", None), ModelNotFound),
        (AliasChange(DIGITS, "a", VersionId("9")), VersionNotFound),
        (TagChange(DIGITS, VersionId("9"), "a", "b"), VersionNotFound),
        (TagChange(ModelName("absent"), VersionId("9"), "a", "b"), ModelNotFound),
        (AliasChange(DIGITS, "champion", VersionId("1"), expected="2"), None),
        (AliasChange(DIGITS, "champion", VersionId("1"), expected=""), Conflict),
        (StageTransition(DIGITS, VersionId("2"), "production", expected="1"), None),
        (AliasChange(DIGITS, "@champion", VersionId("1")), InvalidInput),
        (AliasChange(DIGITS, "a", VersionId("1/../2")), InvalidInput),
    ],
)
async def test_what_cannot_be_written_changes_nothing(
    opened: Open, bucket: Bucket, change: Any, error: type[Exception] | None
) -> None:
    """What is expected counts, and what is wanted anyway is no conflict."""
    before = bucket.text("digits/model.yaml")
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        await opened().write(change)

    assert (bucket.text("digits/model.yaml") == before) is (error is not None)


async def test_two_writers_do_not_undo_each_other(opened: Open, bucket: Bucket, s3_proxy: Proxy) -> None:
    """Somebody writes between our reading and our writing: ours is made again upon theirs."""
    others = iter(["a", "b"])

    def interfere(method: str, path: str) -> None:
        if method == "PUT" and (name := next(others, "")):
            text = bucket.text("digits/model.yaml").replace("aliases: {", f'aliases: {{{name}: "1", ')
            bucket.put("digits/model.yaml", text)

    s3_proxy.between = interfere
    await opened().write(AliasChange(DIGITS, "champion", VersionId("1")))

    assert (await digits(opened())).aliases == {"champion": "1", "a": "1", "b": "1"}


async def test_many_writers_lose_nothing(opened: Open, bucket: Bucket) -> None:
    """Each of several registries sets an alias of its own."""
    writers = [opened() for _ in range(4)]
    await asyncio.gather(
        *(
            writer.write(AliasChange(DIGITS, f"a{index}", VersionId("1")))
            for index, writer in enumerate(writers)
        )
    )

    assert {"a0", "a1", "a2", "a3"} < set((await digits(opened())).aliases)


async def test_a_store_without_conditions_is_written_all_the_same(
    opened: Open, bucket: Bucket, s3_proxy: Proxy
) -> None:
    """It answers that it does not know them, and is not asked again."""
    registry = opened()
    s3_proxy.unknown = ("if-match", "if-none-match")
    await registry.write(AliasChange(DIGITS, "champion", VersionId("1")))
    await registry.write(AliasChange(DIGITS, "other", VersionId("1")))

    assert (await digits(registry)).aliases == {"champion": "1", "other": "1"}
    assert [method for method, _ in s3_proxy.seen].count("PUT") == 3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of two files, one of them larger than a part."""
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text("backend: 'x'")
    (folder / "1/weights").write_bytes(secrets.token_bytes(6 << 20))
    return folder


def new(files: Path, **more: Any) -> NewVersion:
    """A new version of `digits`."""
    said = {"model": DIGITS, "files": files, "format": "triton", "digest": digest_of(files), **more}
    return NewVersion(**said)


def fetched(registry: S3Registry, uri: str) -> dict[str, bytes]:
    """All files of an artifact by the registry's own source."""
    source = registry.source(uri)
    assert source is not None
    with contextlib.closing(source):
        return {file.path: b"".join(source.read(uri, file, 0, file.size)) for file in source.files(uri)}


async def test_files_are_uploaded_and_come_back(
    opened: Open, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts where they are large; by the registry's own access, and under the next number."""
    monkeypatch.setattr(writing, "PART", 5 << 20)
    registry = opened()
    said: list[str] = []
    made = await registry.register(new(files, description="d", metrics={"f1": 0.5}), said.append)

    assert (made.version, made.tags, made.metrics) == ("3", {"description": "d"}, {"f1": 0.5})
    assert said == ["digits 3: uploading 1/weights", "digits 3: uploading config.pbtxt"]
    assert fetched(registry, made.artifact) == {
        "1/weights": (files / "1/weights").read_bytes(),
        "config.pbtxt": b"backend: 'x'",
    }
    assert registry.source("https://host/file") is None


def test_an_upload_that_fails_names_what_failed_first(tmp_path: Path) -> None:
    """Also where the store that failed it takes no word of giving it up."""
    (tmp_path / "weights").write_bytes(b"x" * 9)

    class Store:
        bucket = "b"

        def call(self, _what: str, operation: str, **_rest: object) -> dict[str, str]:
            if operation == "create_multipart_upload":
                return {"UploadId": "1"}
            raise RegistryUnavailable(f"no {operation}")

    uploads = writing.Uploads(cast(objects.Objects, Store()), "", "", None)
    with (
        (tmp_path / "weights").open("rb") as reader,
        pytest.raises(RegistryUnavailable, match="no upload_part"),
    ):
        uploads._send_parts(reader.read, "key", "what")


async def test_the_manifest_comes_last(opened: Open, bucket: Bucket, files: Path, s3_proxy: Proxy) -> None:
    """Where it cannot be written nobody sees a version, and the next try makes one."""
    registry = opened()
    s3_proxy.fail(Fault.AWAY, "/3/version.yaml")
    with pytest.raises(RegistryUnavailable):
        await registry.register(new(files))
    s3_proxy.heal()

    view = await registry.read()
    assert (list(view.models[DIGITS].versions), view.problems) == (["1", "2"], ())
    assert (await registry.register(new(files, version="3"))).version == "3"


async def test_the_same_once_more_is_no_error_and_other_files_are(opened: Open, files: Path) -> None:
    """The id is theirs."""
    registry = opened()
    first = await registry.register(new(files, version="v1"))

    assert await registry.register(new(files, version="v1")) == first
    (files / "config.pbtxt").write_text("")
    with pytest.raises(InvalidInput, match="has a version 'v1' already"):
        await registry.register(new(files, version="v1"))


async def test_somebody_takes_the_number_meanwhile(
    opened: Open, bucket: Bucket, files: Path, s3_proxy: Proxy
) -> None:
    """Ours is the next one; theirs is left as it is."""

    def interfere(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/3/version.yaml"):
            bucket.put("digits/3/version.yaml", VERSION)

    s3_proxy.between = interfere
    made = await opened().register(new(files))

    assert (made.version, bucket.text("digits/3/version.yaml")) == ("4", VERSION)


async def test_files_can_lie_elsewhere(opened: Open, bucket: Bucket, files: Path) -> None:
    """So that looking at the manifests does not list them."""
    registry = opened(files=f"s3://{bucket.name}/{bucket.prefix}-files")
    made = await registry.register(new(files / "config.pbtxt"))

    assert made.artifact.startswith(f"s3://{bucket.name}/{bucket.prefix}-files/digits/3/files-")
    assert fetched(registry, made.artifact) == {"config.pbtxt": b"backend: 'x'"}
    assert len([key for key in bucket.listed() if key.startswith(f"{bucket.prefix}/digits/3/")]) == 1


async def test_what_cannot_be_registered_uploads_nothing(opened: Open, bucket: Bucket, files: Path) -> None:
    """Wrong digest, wrong id, no files."""
    before = bucket.listed()
    for version in (
        new(files, digest="sha256:" + "0" * 64),
        new(files, version="a/b"),
        NewVersion(DIGITS, files / "absent", "onnx", digest_of(files)),
    ):
        with pytest.raises(InvalidInput):
            await opened().register(version)

    assert bucket.listed() == before


async def test_files_are_fetched_again_and_again(opened: Open, bucket: Bucket, tmp_path: Path) -> None:
    """Each fetch closes the access that it was given, and the next one gets access of its own."""
    bucket.put("digits/1/model.onnx", "one")
    bucket.put("digits/2/model.onnx", "two")
    registry = opened()
    fetcher = Fetcher(
        origins=lambda _: Origin("s3", uri=f"s3://{bucket.name}/{bucket.prefix}"),
        sources=lambda version: registry.source(version.artifact),
    )
    for version in (await digits(registry)).versions.values():
        (tmp_path / version.version).mkdir()
        fetcher.fetch(version, tmp_path / version.version)

    assert [path.read_text() for path in sorted(tmp_path.rglob("model.onnx"))] == ["one", "two"]
    assert registry.source("file:///etc/passwd") is None


def test_it_sends_no_notices(opened: Open) -> None:
    """Polling is what there is."""
    with pytest.raises(NotSupported):
        opened().webhook({}, b"", 0.0)
