"""What the parts are told of a configuration."""

from __future__ import annotations

from gateway.bridge import DataPlane, Settings
from gateway.config import Address, GatewayConfig
from gateway.standing import Addresses
from router.control.controller import ControllerSettings

SERVER_VERSION = "2.51.0"
"""Triton version whose protocol we speak; shown by ServerMetadata beside our extensions."""


def data_plane_settings(config: GatewayConfig) -> Settings:
    """What the data plane is told of a configuration, without certificates."""
    limits, address, http = config.limits, config.listen.inference, config.listen.http
    return Settings(
        host=address.host,
        port=address.port,
        threads=config.threads,
        max_message=limits.max_message,
        max_streams=limits.max_streams,
        max_header_list=limits.max_header_list,
        max_frame=limits.max_frame,
        max_connections=limits.max_connections,
        upstream_connections=limits.upstream_connections,
        queue_per_model=limits.queue_per_model,
        default_deadline_ms=round(limits.default_deadline * 1000),
        handshake_timeout_ms=round(limits.handshake_timeout * 1000),
        idle_timeout_ms=round(limits.idle_timeout * 1000),
        inflate_ratio=limits.inflate_ratio,
        allow=config.protocol.methods,
        server_name="triton",
        server_version=SERVER_VERSION,
        replay=limits.replay,
        answer_timeout_ms=round(limits.answer_timeout * 1000),
        resets_per_second=limits.resets_per_second,
        connections_per_address=limits.connections_per_address or 0,
        max_connection_age_ms=round((limits.max_connection_age or 0) * 1000),
        cancels_per_second=limits.cancels_per_second,
        max_buffered=limits.max_buffered,
        shadow_queue=limits.shadow_queue,
        shadow_concurrency=limits.shadow_concurrency,
        shadow_bytes=limits.shadow_bytes,
        shadow_deadline_ms=round(limits.shadow_deadline * 1000),
        http_host=http.host if http else "",
        http_port=http.port if http else 0,
    )


def controller_settings(config: GatewayConfig) -> ControllerSettings:
    """The part of a configuration that the control loop wants."""
    idle, loss = config.residency.idle_unload, config.residency.loss_window
    return ControllerSettings(
        default_registry=config.default_registry,
        idle_unload=float("inf") if idle is None else idle,
        load_timeout=config.residency.load_timeout,
        rollback_window=config.residency.rollback_window,
        loss_window=float("inf") if loss is None else loss,
    )


def addresses(config: GatewayConfig, data_plane: DataPlane) -> Addresses:
    """Where a gateway is reached; metrics and admin as configured, since they are bound later."""
    bound, http = Address(config.listen.inference.host, data_plane.inference_port), config.listen.http
    return Addresses(
        inference=str(bound),
        http=str(Address(http.host, data_plane.http_port)) if http else "",
        metrics=str(config.listen.metrics),
        admin=str(config.listen.admin),
        config=config.source,
        state=str(config.state),
    )
