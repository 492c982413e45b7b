"""The server of these tests speaks as the Hub does: the Hub's own client takes it for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from router.registries.hub.api import HubApi
from router.remote.net import Client, Guard
from tests.servers.hub import Hub, Repo

_THEIRS = """
import json, sys, pathlib
from huggingface_hub import HfApi, snapshot_download
endpoint, repo, folder = sys.argv[1:]
api = HfApi(endpoint=endpoint, token=False)
api.create_tag(repo, tag="v1", revision="main")
api.create_tag(repo, tag="gone", revision="main")
api.delete_tag(repo, tag="gone")
refs = api.list_repo_refs(repo)
sha = api.model_info(repo, revision="main").sha
commits = api.list_repo_commits(repo, revision=sha)
tree = api.list_repo_tree(repo, revision=sha, recursive=True)
snapshot_download(repo, revision=sha, endpoint=endpoint, token=False, local_dir=folder)
print(json.dumps({
    "branches": {ref.name: ref.target_commit for ref in refs.branches},
    "tags": {ref.name: ref.target_commit for ref in refs.tags},
    "sha": sha,
    "made": commits[0].created_at.timestamp(),
    "tree": [[f.path, f.size, f.blob_id, f.lfs.sha256 if f.lfs else ""] for f in tree if hasattr(f, "size")],
}))
"""


def test_the_hubs_own_client_and_ours_see_the_same(hub: Hub, tmp_path: Path) -> None:
    """Branches, tags, commits, files, and the content of a whole snapshot."""
    files = {
        "model.onnx": b"large" * 1000,
        "config.json": b"{}",
        "a b/\u00e4.txt": b"small",
        ".gitattributes": b"*.onnx filter=lfs",
        "onnx/other.onnx": b"other",
    }
    hub.repos["org/m"] = repo = Repo()
    repo.commit({"README.md": b"x"}, "old/one")
    sha = repo.commit(files, "main")
    home = tmp_path / "home"
    settings = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", _THEIRS, hub.endpoint, "org/m", str(tmp_path / "snapshot")],
        env={"PATH": os.environ["PATH"], "HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    fetched = {path: (tmp_path / "snapshot" / path).read_bytes() for path in files}
    api = HubApi(hub.endpoint, Client(Guard(["127.0.0.1"])), None, 10)
    refs, _ = api.refs("org/m", "")
    ours = {
        "branches": dict(refs.branches) if refs else {},
        "tags": dict(refs.tags) if refs else {},
        "sha": api.commit("org/m", "main"),
        "made": api.made("org/m", sha),
        "tree": [[f.path, f.size, f.blob, f.sha256] for f in api.files("org/m", sha)],
    }
    api.close()

    assert fetched == files
    assert theirs["tags"] == {"v1": sha}
    assert ours == theirs
