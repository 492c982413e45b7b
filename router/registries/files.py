"""Names of the files that make a folder registry."""

MODEL_FILE = "model.yaml"
VERSION_FILE = "version.yaml"
