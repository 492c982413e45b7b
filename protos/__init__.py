"""Protocol files, and under `gen` the Python made from them by `scripts/generate`."""
