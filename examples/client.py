"""Sends held-out digits to a running gateway by stage or alias, with the stock Triton client.

python examples/client.py [--server 127.0.0.1:8001] [--at production] [--rows 200]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

DATA = Path(__file__).resolve().parent / "data" / "digits.npz"


def main() -> None:
    """Ask for one image at a time; print how many were read right, and who answered."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", default="127.0.0.1:8001")
    parser.add_argument("--at", default="", help="stage, @alias or version; empty for the model's route")
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    held_out = np.load(DATA)
    images, truth = held_out["X"][: options.rows], held_out["y"][: options.rows]
    right, versions = 0, Counter[str]()
    with triton.InferenceServerClient(options.server) as client:
        for image, label in zip(images, truth, strict=True):
            tensor = triton.InferInput("X", [1, image.size], "FP32")
            tensor.set_data_from_numpy(image[np.newaxis])
            answer = client.infer("digits", [tensor], model_version=options.at)
            right += int(answer.as_numpy("label").reshape(-1)[0] == label)
            versions[answer.get_response().model_version] += 1
    for version, count in sorted(versions.items()):
        print(f"version {version} answered {count} times")
    print(f"{right} of {len(truth)} digits read right")


if __name__ == "__main__":
    main()
