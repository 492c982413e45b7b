"""What holds for every test: nothing of ours in the environment, and how hard Hypothesis looks."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.servers.dvc import dvc_repository, dvc_template
from tests.servers.hub import hub
from tests.servers.mlflow import mlflow_server
from tests.servers.s3 import s3_proxy, s3_server
from tests.servers.sagemaker import moto_client, moto_url, sagemaker
from tests.servers.third_party import third_party_registry

__all__ = [
    "dvc_repository",
    "dvc_template",
    "hub",
    "mlflow_server",
    "moto_client",
    "moto_url",
    "s3_proxy",
    "s3_server",
    "sagemaker",
    "third_party_registry",
]

# Fast looks at the same examples in each run, so that a red test speaks of the change and not of the dice.
settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
# HYPOTHESIS_PROFILE=slow make test
settings.register_profile("slow", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Before any fixture of any scope runs: a test must not depend on what its user has set.
for name in [key for key in os.environ if key.startswith("STAGEGATE_")]:
    del os.environ[name]
