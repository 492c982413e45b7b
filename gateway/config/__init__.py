"""Configuration: one YAML file and overrides from the environment, checked whole, frozen.

`load_config` is the way in; `schema` says what there is.
"""

from gateway.config.artifacts import ArtifactsConfig
from gateway.config.document import Document, read_document, read_documents
from gateway.config.load import built_in_config, changed_keys, describe_problems, load_config, parse_config
from gateway.config.registries import RegistryConfig
from gateway.config.schema import (
    BUILT_IN,
    METHOD_GROUPS,
    BackendConfig,
    BackendTlsConfig,
    GatewayConfig,
    LimitsConfig,
    ListenConfig,
    LogConfig,
    ProtocolConfig,
    ResidencyConfig,
    StateConfig,
    TlsConfig,
    TritonConfig,
)
from gateway.config.secret import Secret, SecretReader, parse_secret
from gateway.config.units import Address

__all__ = [
    "BUILT_IN",
    "METHOD_GROUPS",
    "Address",
    "ArtifactsConfig",
    "BackendConfig",
    "BackendTlsConfig",
    "Document",
    "GatewayConfig",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "ProtocolConfig",
    "RegistryConfig",
    "ResidencyConfig",
    "Secret",
    "SecretReader",
    "StateConfig",
    "TlsConfig",
    "TritonConfig",
    "built_in_config",
    "changed_keys",
    "describe_problems",
    "load_config",
    "parse_config",
    "parse_secret",
    "read_document",
    "read_documents",
]
