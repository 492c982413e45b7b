"""What a copy of a model works on at once, by its configuration."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from router.backends.capacity import capacity_of
from router.model import UNBOUNDED, Capacity, together


def config(text: str) -> ModelConfig:
    """A configuration as Triton gives it."""
    return text_format.Parse(text, ModelConfig())


ONE = "instance_group [{ kind: KIND_CPU count: 1 }] "


@pytest.mark.parametrize(
    ("text", "at_once"),
    [
        (ONE, 1),
        ("instance_group [{ kind: KIND_CPU count: 3 }, { kind: KIND_GPU count: 2 gpus: [0, 1] }]", 7),
        (ONE + "max_batch_size: 8", 1),
        (ONE + "max_batch_size: 8 dynamic_batching {}", 8),
        (ONE + "max_batch_size: 4 sequence_batching {}", 4),
        (ONE + "dynamic_batching {}", 1),
        ("instance_group [{ kind: KIND_MODEL count: 1 }]", 0),
        ('platform: "ensemble" ensemble_scheduling { step: [{ model_name: "a" }] }', 0),
        ("", 0),
        (ONE + "model_transaction_policy { decoupled: true }", UNBOUNDED),
        (ONE + 'parameters { key: "stagegate_concurrency" value { string_value: "64" } }', 64),
        (ONE + 'parameters { key: "stagegate_concurrency" value { string_value: "0" } }', UNBOUNDED),
        (ONE + 'parameters { key: "stagegate_concurrency" value { string_value: "many" } }', 1),
        (
            "instance_group [{ kind: KIND_CPU count: 2147483647 }, { count: 2147483647 }, { count: 5 }] ",
            UNBOUNDED - 1,
        ),
    ],
)
def test_what_a_copy_works_on_at_once(text: str, at_once: int) -> None:
    """Instances times what one run of an instance answers; 0 where that cannot be told."""
    assert capacity_of(config(text)).at_once == at_once


def test_priority_levels_are_those_of_the_dynamic_batcher() -> None:
    """They order the queue here as they do there."""
    text = ONE + "dynamic_batching { priority_levels: 3 default_priority_level: 2 }"

    assert capacity_of(config(text)) == Capacity(1, 3, 2)


def test_the_idle_time_of_sequences_is_the_sequence_batchers() -> None:
    """After it Triton forgets a sequence, and so may the gateway."""
    text = ONE + "sequence_batching { max_sequence_idle_microseconds: 5000000 }"

    assert (capacity_of(config(text)).sequence_idle_us, capacity_of(config(ONE)).sequence_idle_us) == (
        5_000_000,
        0,
    )


def test_the_queue_s_time_is_that_of_a_policy_which_rejects() -> None:
    """What Triton would refuse after a time in its queue is not to wait here for longer."""
    policy = "default_timeout_microseconds: 5000 allow_timeout_override: true"
    rejects = f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}"
    delays = f"dynamic_batching {{ default_queue_policy {{ timeout_action: DELAY {policy} }} }}"

    assert capacity_of(config(rejects)) == Capacity(queue_timeout_us=5_000, timeout_override=True)
    assert capacity_of(config(delays)).queue_timeout_us == 0


@pytest.mark.parametrize(
    ("copies", "at_once"),
    [((), 0), ((2,), 2), ((2, 3), 5), ((2, 0), 0), ((2, UNBOUNDED), UNBOUNDED)],
)
def test_copies_together_work_on_what_each_works_on(copies: tuple[int, ...], at_once: int) -> None:
    """Not known where it is not known of each."""
    assert together([Capacity(each) for each in copies]).at_once == at_once
