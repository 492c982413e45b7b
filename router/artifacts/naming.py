"""The Triton model name of a version: unique to it, and the same on every gateway."""

from __future__ import annotations

import hashlib
import re

from router.model import TritonName, Version

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST = 200
"""Below the 255 bytes of a file name, with room for the prefix of a temporary folder."""


def triton_model_name(version: Version) -> TritonName:
    """`<model>.<version>.<first 8 hex of sha256 over registry, model, version, digest>`.

    Made safe for a file name: other characters become `_`, a long name is cut, and the hash keeps what was
    lost apart.
    """
    identity = "\0".join((version.registry, version.model, version.version, version.digest))
    mark = hashlib.sha256(identity.encode()).hexdigest()[:8]
    readable = _UNSAFE.sub("_", f"{version.model}.{version.version}")[:_LONGEST].lstrip(".")
    return TritonName(f"{readable}.{mark}")
