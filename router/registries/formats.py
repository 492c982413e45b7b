"""The format of a version by the names of its files, for registries that say nothing about it. Pure."""

from __future__ import annotations

from collections.abc import Collection

_BY_NAME = {"MLmodel": "mlflow", "config.pbtxt": "triton", "saved_model.pb": "savedmodel"}
_BY_ENDING = {".onnx": "onnx", ".plan": "tensorrt"}


def format_of(paths: Collection[str]) -> tuple[str, str]:
    """The format that these files make, and why none where it is "".

    A file at the top that only one format has decides; else files of one known ending do.
    """
    for name, known in _BY_NAME.items():
        if name in paths:
            return known, ""
    endings = {ending for ending in _BY_ENDING for path in paths if path.endswith(ending)}
    if len(endings) == 1:
        return _BY_ENDING[endings.pop()], ""
    if endings:
        return "", f"its files are of several formats ({', '.join(sorted(endings))}); give `format`"
    return "", "none of its files tells a format that is known; give `format`"
