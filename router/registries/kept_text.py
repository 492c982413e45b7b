"""Texts that are kept for a rare comparison, small: manifests are much alike."""

from __future__ import annotations

import zlib

# What most manifests have in common; it is not stored with any of them. A process never reads what another
# has packed, so it may change.
_COMMON = b"""format: onnx
artifact: model.onnx
digest: sha256:
contract:
  inputs:
    - {name: input, datatype: FP32, shape: [-1, 1]}
  outputs:
    - {name: output, datatype: INT64, shape: [-1]}
    - {name: probabilities, datatype: FP32, shape: [-1, 10]}
metrics: {accuracy: 0.9, loss: 0.1, f1: 0.9, rmse: 1.0}
tags: {team: a, trained_by: ci, owner: b}
lineage: {run: r, commit: c, dataset: d}
created: "2026-01-01T00:00:00Z"
description: ""
stages: {production: "1", staging: "2"}
aliases: {champion: "1", challenger: "2"}
"""


def pack(text: str) -> bytes:
    """A text as few bytes; b"" for none."""
    if not text:
        return b""
    packer = zlib.compressobj(level=6, wbits=-15, memLevel=5, zdict=_COMMON)
    return packer.compress(text.encode()) + packer.flush()


def unpack(packed: bytes) -> str:
    """What `pack` was given."""
    if not packed:
        return ""
    unpacker = zlib.decompressobj(wbits=-15, zdict=_COMMON)
    return (unpacker.decompress(packed) + unpacker.flush()).decode()
