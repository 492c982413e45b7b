"""What one copy of a model works on at once, told by its Triton's ModelConfig."""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from router.model import UNBOUNDED, Capacity

CONCURRENCY_PARAMETER = "stagegate_concurrency"
"""A parameter in `config.pbtxt` by which the owner of a model says how many requests a copy works on at
once, where instances and batches do not tell; 0 means that it is never to be held back."""


def capacity_of(config: ModelConfig) -> Capacity:
    """What a copy of a model works on at once.

    That is its instances times the batch that Triton makes of several requests. It is not known of an
    ensemble, whose steps have instances of their own, and of KIND_MODEL, where the backend decides. A
    decoupled model may answer any number of requests side by side and is not bounded.

    Args:
        config: as Triton gives it for a loaded model, with everything filled in.
    """
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    # A request whose time is over is only put back by the other action, not refused.
    rejects = policy.timeout_action == ModelQueuePolicy.REJECT
    return Capacity(
        at_once=_at_once(config),
        priority_levels=min(int(batching.priority_levels), UNBOUNDED),
        default_priority=min(int(batching.default_priority_level), UNBOUNDED),
        sequence_idle_us=int(config.sequence_batching.max_sequence_idle_microseconds),
        queue_timeout_us=int(policy.default_timeout_microseconds) if rejects else 0,
        timeout_override=bool(policy.allow_timeout_override),
    )


def _at_once(config: ModelConfig) -> int:
    told = config.parameters.get(CONCURRENCY_PARAMETER)
    if told is not None and told.string_value.isdecimal():
        return min(int(told.string_value), UNBOUNDED - 1) or UNBOUNDED
    if config.model_transaction_policy.decoupled:
        return UNBOUNDED
    instances = [_instances(group) for group in config.instance_group]
    if config.HasField("ensemble_scheduling") or not instances or 0 in instances:
        return 0
    return min(sum(instances) * _batch(config), UNBOUNDED - 1)


def _instances(group: ModelInstanceGroup) -> int:
    """Instances of a group, on all its GPUs; 0 where not known."""
    if group.passive:
        return 0
    if group.kind == ModelInstanceGroup.KIND_MODEL:
        return 0
    return int(group.count) * max(1, len(group.gpus))


def _batch(config: ModelConfig) -> int:
    """Requests that one run of an instance may answer."""
    if config.HasField("dynamic_batching") or config.HasField("sequence_batching"):
        return max(1, int(config.max_batch_size))
    return 1
