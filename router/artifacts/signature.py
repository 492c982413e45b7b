"""Signatures of artifacts, as `model-signing` makes and verifies them.

A signature is the file `model.sig` at the top of the artifact. It must be over all other files: by default
model-signing leaves files below `.git` and the like aside, so that code hidden there would pass; here nothing
is left aside, and hidden files are refused before.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from router.artifacts.digest import files_of
from router.artifacts.policy import SignatureSettings
from router.errors import ArtifactRefused, NotSupported

SIGNATURE = "model.sig"


def check_signature(folder: Path, settings: SignatureSettings) -> None:
    """Check all files of a folder against the signature that is among them.

    Raises:
        ArtifactRefused: there is none, it is not by the key or certificates of the settings, or a file was
            changed, added or taken away since.
        NotSupported: model-signing is not installed.
    """
    for path, _ in files_of(folder):
        if any(part.startswith(".") for part in path.split("/")):
            raise ArtifactRefused(f"{path} begins with a dot", hint="a signed artifact has no hidden files")
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise ArtifactRefused(
            f"it must be signed, and there is no {SIGNATURE} at its top",
            hint="sign it by model-signing, or take the model out of artifacts.signature.required",
        )
    if (settings.public_key is None) == (not settings.certificates):
        raise ArtifactRefused(
            "it must be signed, and it is not said by whom",
            hint="give either artifacts.signature.public_key or artifacts.signature.certificates",
        )
    _verify(folder, signature, settings)


def _verify(folder: Path, signature: Path, settings: SignatureSettings) -> None:
    try:
        hashing: Any = import_module("model_signing.hashing")
        verifying: Any = import_module("model_signing.verifying")
    except ImportError as problem:
        raise NotSupported(
            f"signatures need model-signing, and it cannot be loaded: {problem}",
            hint="pip install 'stagegate[signing]'",
        ) from None
    # A signature may say that its signer left some paths aside; here they are not wanted either.
    config = type("Everything", (hashing.Config,), {"add_ignored_paths": _leave_nothing_aside})
    verifier = verifying.Config().set_hashing_config(
        config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    )
    try:
        if settings.public_key is not None:
            verifier.use_elliptic_key_verifier(public_key=settings.public_key)
        else:
            verifier.use_certificate_verifier(certificate_chain=list(settings.certificates))
        verifier.verify(folder, signature)
    except Exception as problem:  # model-signing's errors have no common base
        raise ArtifactRefused(
            f"its signature does not hold: {str(problem)[:300]}",
            hint="sign the files as they are now, with the key in artifacts.signature",
        ) from None


def _leave_nothing_aside(config: object, **_: object) -> None:
    """In place of model-signing's `Config.add_ignored_paths`."""
