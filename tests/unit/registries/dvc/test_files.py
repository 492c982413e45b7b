"""DVC's own files, honest and hostile."""

from __future__ import annotations

import json

import pytest

from router.registries.dvc.files import (
    MOST_FILES,
    Entry,
    Out,
    Unusable,
    declared,
    entries,
    inside,
    outs_of_dvc_file,
    outs_of_lock,
    remotes,
)

MD5 = "25d902b2750a84f4db28a445b9d7ef5b"


@pytest.mark.parametrize(
    ("path", "folder", "is_at"),
    [("a.onnx", "", "a.onnx"), ("../b/a", "models", "b/a"), ("./a", "m", "m/a"), ("a/../b", "", "b")],
)
def test_a_path_inside(path: str, folder: str, is_at: str) -> None:
    """From the top, in its plain form."""
    assert inside(path, folder) == is_at


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../../b",
        ".",
        "a\\b",
        "a\nb",
        "a\x00",
        "a//b",
        "\u202ea",
        "x/../..",
    ],
)
def test_a_path_that_leads_out(path: str) -> None:
    """It is refused, whatever the way."""
    with pytest.raises(Unusable, match="path"):
        inside(path)


def test_an_artifact_of_dvc_yaml() -> None:
    """Its path is from the folder of the file."""
    keys = "path: a.onnx, type: model, desc: d, labels: [x], meta: {format: onnx}"
    text = f"stages: {{}}\nartifacts:\n  m: {{{keys}}}\n"
    found = declared(text, "models", "m")

    assert found is not None
    assert (found.path, found.kind, found.about, found.labels) == ("models/a.onnx", "model", "d", ("x",))
    assert found.meta == {"format": "onnx"}
    assert declared(text, "models", "other") is None
    assert declared("", "", "m") is declared("- a", "", "m") is declared("artifacts: []", "", "m") is None


@pytest.mark.parametrize(
    "text",
    [
        "artifacts: {m: {}}",
        "artifacts: {m: 1}",
        "artifacts: {m: {path: ../../x}}",
        "artifacts: {m",
        "a: &b c",
    ],
)
def test_an_artifact_that_cannot_be_read(text: str) -> None:
    """It says why."""
    with pytest.raises(Unusable):
        declared(text, "", "m")


def test_a_dvc_file() -> None:
    """Files and folders, of DVC 3 and before; what has no MD5 is left out."""
    text = f"""
wdir: ../data
outs:
- {{md5: {MD5}, size: 6, hash: md5, path: a.onnx}}
- {{md5: {MD5}.dir, size: 9999999999999999999, path: tree, remote: other}}
- {{etag: x, path: s3only}}
"""

    assert outs_of_dvc_file(text, "models/a.onnx.dvc") == (
        Out("data/a.onnx", MD5, size=6),
        Out("data/tree", MD5, folder=True, remote="other", old=True),
    )


def test_where_a_remote_keeps_it() -> None:
    """DVC 3 has folders of its own for it."""
    assert Out("a", MD5).key == f"files/md5/25/{MD5[2:]}"
    assert Out("a", MD5, folder=True, old=True).key == f"25/{MD5[2:]}.dir"


@pytest.mark.parametrize(
    "out",
    ["{path: ../../a, md5: %s}", "{path: /a, md5: %s}", "{md5: %s}"],
)
def test_a_dvc_file_that_leads_out(out: str) -> None:
    """It is refused as a whole."""
    with pytest.raises(Unusable):
        outs_of_dvc_file(f"outs: [{out % MD5}]", "models/a.dvc")
    with pytest.raises(Unusable):
        outs_of_dvc_file(f"wdir: ../..\nouts: [{{path: a, md5: {MD5}}}]", "models/a.dvc")


@pytest.mark.parametrize("md5", ["../../etc/passwd", MD5.upper(), MD5[:-1], MD5 + ".dir.dir", MD5 + "/x", ""])
def test_an_md5_that_is_none(md5: str) -> None:
    """It would be a path in a remote; so it is nothing."""
    assert outs_of_dvc_file(f"outs: [{{path: a, md5: '{md5}'}}]", "a.dvc") == ()


def test_a_lock() -> None:
    """What pipelines made, from the folder of the lock."""
    out = f"{{path: m.onnx, hash: md5, md5: {MD5}, size: 3}}"
    text = f"schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n    - {out}\n"

    assert outs_of_lock(text, "p") == (Out("p/m.onnx", MD5, size=3),)
    assert outs_of_lock("stages: [1]", "") == outs_of_lock("", "") == ()


def test_the_files_of_a_folder() -> None:
    """As a remote lists them."""
    assert entries(json.dumps([{"md5": MD5, "relpath": "1/model.py"}]).encode()) == (
        Entry("1/model.py", MD5),
    )


@pytest.mark.parametrize(
    "listed",
    [
        [{"md5": MD5, "relpath": path}]
        for path in ("../a", "/a", "a/../../b", "a/./b", "a/", "a\\b", "a\n", "", "./a", "..", "a//b")
    ]
    + [[{"md5": "x", "relpath": "a"}], [{"relpath": "a"}], [{"md5": MD5}], ["a"], {"a": 1}, None]
    + [[{"md5": MD5, "relpath": "a"}] * 2],
)
def test_a_list_that_lies(listed: object) -> None:
    """One bad entry spoils the list."""
    with pytest.raises(Unusable):
        entries(json.dumps(listed).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"{"])
def test_a_list_that_is_none(data: bytes) -> None:
    """Neither are bytes that are no JSON."""
    with pytest.raises(Unusable):
        entries(data)


def test_a_list_that_is_too_long() -> None:
    """Nobody has that many files in a model."""
    listed = [{"md5": MD5, "relpath": str(number)} for number in range(MOST_FILES + 1)]
    with pytest.raises(Unusable, match=str(MOST_FILES)):
        entries(json.dumps(listed).encode())


def test_remotes() -> None:
    """As DVC writes them; comments and other sections are left out."""
    text = """
[core]
    analytics = false
    remote = storage
# ['remote "no"']
['remote "storage"']
    url = ../../remote
['remote "s3"']
    url = s3://bucket/prefix
    endpointurl = "http://x"
[cache]
    url = nowhere
"""

    assert remotes(text) == (
        "storage",
        {"storage": {"url": "../../remote"}, "s3": {"url": "s3://bucket/prefix", "endpointurl": "http://x"}},
    )
    assert remotes("nonsense\n[[[\n=\n") == ("", {})
