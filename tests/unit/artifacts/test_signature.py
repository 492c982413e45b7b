"""Signed artifacts: changed, extra, missing and hidden files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from router.artifacts.policy import SignatureSettings
from router.artifacts.signature import SIGNATURE, check_signature
from router.errors import ArtifactRefused

pytest.importorskip("model_signing.signing", reason="model-signing is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / name).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    return folder


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder of three files."""
    folder = tmp_path / "artifact"
    (folder / "sub").mkdir(parents=True)
    for path in ("model.onnx", "sub/a", "sub/b"):
        (folder / path).write_text(path)
    return folder


def sign(folder: Path, key: Path, ignore: tuple[Path, ...] = ()) -> None:
    """Sign a folder as model-signing's command line does by default."""
    from model_signing import hashing, signing

    config = signing.Config().use_elliptic_key_signer(private_key=key)
    paths = [folder / SIGNATURE, *ignore]
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=paths, ignore_git_paths=True))
    config.sign(folder, folder / SIGNATURE)


def settings(keys: Path, who: str = "ours") -> SignatureSettings:
    """What the operator wrote."""
    return SignatureSettings(("*",), public_key=keys / f"{who}.pub")


def test_a_signed_artifact_passes(keys: Path, artifact: Path) -> None:
    """By the key that signed it, and by no other."""
    sign(artifact, keys / "ours")
    check_signature(artifact, settings(keys))
    with pytest.raises(ArtifactRefused, match="does not hold"):
        check_signature(artifact, settings(keys, "theirs"))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.onnx").write_text("other"),
        lambda folder: (folder / "extra.py").write_text("import os"),
        lambda folder: (folder / "sub/b").unlink(),
        lambda folder: (folder / "sub/b").rename(folder / "sub/c"),
        lambda folder: (folder / SIGNATURE).write_text("{}"),
    ],
    ids=["flip", "extra", "missing", "renamed", "no signature"],
)
def test_a_change_after_signing_is_refused(
    keys: Path, artifact: Path, change: Callable[[Path], object]
) -> None:
    """Whatever it is."""
    sign(artifact, keys / "ours")
    change(artifact)
    with pytest.raises(ArtifactRefused, match="does not hold"):
        check_signature(artifact, settings(keys))


@pytest.mark.parametrize("path", [".git/hooks/x", ".gitattributes", ".hidden", "sub/.x"])
def test_hidden_files_are_refused(keys: Path, artifact: Path, path: str) -> None:
    """model-signing leaves those of git aside by default: there code could hide."""
    sign(artifact, keys / "ours")
    (artifact / path).parent.mkdir(parents=True, exist_ok=True)
    (artifact / path).write_text("x")
    with pytest.raises(ArtifactRefused, match="begins with a dot"):
        check_signature(artifact, settings(keys))


def test_what_the_signer_left_aside_is_refused(keys: Path, artifact: Path) -> None:
    """A signature may name paths to ignore; what lies there was not signed."""
    sign(artifact, keys / "ours", ignore=(artifact / "sub",))
    with pytest.raises(ArtifactRefused, match="does not hold"):
        check_signature(artifact, settings(keys))


def test_no_signature_is_no_signature(keys: Path, artifact: Path) -> None:
    """Where one is required."""
    with pytest.raises(ArtifactRefused, match=r"artifacts\.signature\.required"):
        check_signature(artifact, settings(keys))


def test_it_must_be_said_who_signs(artifact: Path) -> None:
    """A requirement without a key can only refuse."""
    (artifact / SIGNATURE).write_text("{}")
    with pytest.raises(ArtifactRefused, match="by whom"):
        check_signature(artifact, SignatureSettings(("*",)))
