"""What the control loop needs from the outside world, as small protocols.

Adapters implement these; one contract suite for each port runs on every adapter and on the fake. Everything
is imported from here; which file it is in is for readers.
"""

from router.ports.backend import ModelFolders, ModelServer, ServerInfo
from router.ports.clock import Clock
from router.ports.data_plane import (
    BackendDown,
    BackendUp,
    ColdWanted,
    CopyEjected,
    CopyRecovered,
    DataPlane,
    DataPlaneEvent,
    VersionUse,
    WebhookArrived,
)
from router.ports.registry import (
    ANYTHING,
    AliasChange,
    Capability,
    Hint,
    NewVersion,
    PointerChange,
    Registry,
    RegistryChange,
    StageTransition,
    TagChange,
    Unknown,
)
from router.ports.source import RemoteFile, Source
from router.ports.store import (
    ACCEPT,
    ARM,
    MOVED,
    PROMOTE,
    PUT_ROUTES,
    ROLLBACK,
    Accepted,
    Decision,
    PointerMove,
    RouteChangeRecord,
    StateStore,
    StoredRoute,
    WriteBack,
    WriteState,
)

__all__ = [
    "ACCEPT",
    "ANYTHING",
    "ARM",
    "MOVED",
    "PROMOTE",
    "PUT_ROUTES",
    "ROLLBACK",
    "Accepted",
    "AliasChange",
    "BackendDown",
    "BackendUp",
    "Capability",
    "Clock",
    "ColdWanted",
    "CopyEjected",
    "CopyRecovered",
    "DataPlane",
    "DataPlaneEvent",
    "Decision",
    "Hint",
    "ModelFolders",
    "ModelServer",
    "NewVersion",
    "PointerChange",
    "PointerMove",
    "Registry",
    "RegistryChange",
    "RemoteFile",
    "RouteChangeRecord",
    "ServerInfo",
    "Source",
    "StageTransition",
    "StateStore",
    "StoredRoute",
    "TagChange",
    "Unknown",
    "VersionUse",
    "WebhookArrived",
    "WriteBack",
    "WriteState",
]
