"""What was seen of a version when somebody accepted it, and whether it still is that. Pure.

A version id says nothing of what is behind it: a model may be deleted and registered anew, files replaced.
Whoever accepts a version has seen a difference between two contracts, and that is what holds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple

from router.model import Contract, Version

_REGISTRY, _TRITON = "registry", "triton"


def files_seen(version: Version) -> str:
    """A fingerprint of the files of a version: by their digest, else by where they are."""
    return _hash([version.format, version.digest.lower() or version.artifact])


def contract_seen(version: Version, learned: Contract | None) -> str:
    """Who tells what a version takes and gives, and a fingerprint of that; "" where nobody does.

    Args:
        learned: what a Triton told that has it.
    """
    contract = version.contract or learned
    if contract is None:
        return ""
    tensors = [sorted(map(astuple, tensors)) for tensors in (contract.inputs, contract.outputs)]
    return f"{_REGISTRY if version.contract else _TRITON} {_hash(tensors)}"


def still_holds(files: str, contract: str, version: Version, learned: Contract | None) -> bool:
    """Whether what was accepted is what is there now.

    A contract that was not known then, or is not now, or is told by somebody else, says nothing against it:
    registries and Tritons have words of their own for the same tensors.

    Args:
        files, contract: as `files_seen` and `contract_seen` gave them then.
    """
    if files != files_seen(version):
        return False
    now = contract_seen(version, learned)
    comparable = bool(contract and now) and contract.partition(" ")[0] == now.partition(" ")[0]
    return contract == now or not comparable


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
