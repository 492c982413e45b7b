"""What of a new version would break the clients of the one before it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from router.model import Contract, TensorSpec

_ANY = -1
_SHOWN = 8


def differences(old: Contract, new: Contract) -> tuple[str, ...]:
    """What a client that was written for `old` would stumble over with `new`, one sentence each.

    An input may take more than before (a dimension that was fixed becomes variable), an output may promise
    more (a dimension that was variable becomes fixed), and outputs may be added; all else is a difference.
    Every input counts as needed: neither registries nor Triton's metadata say which may be left out.
    """
    return (*_inputs(old, new), *_outputs(old, new))


def _inputs(old: Contract, new: Contract) -> Iterator[str]:
    before, now = _by_name(old.inputs), _by_name(new.inputs)
    for name, spec in before.items():
        if name not in now:
            yield f"input {name!r} ({_shown(spec)}) is gone; there are {_names(new.inputs)}"
        else:
            yield from _changed("input", spec, now[name], _narrower(spec.shape, now[name].shape))
    for name, spec in now.items():
        if name not in before:
            yield f"input {name!r} ({_shown(spec)}) is new; clients send {_names(old.inputs)}"


def _outputs(old: Contract, new: Contract) -> Iterator[str]:
    before, now = _by_name(old.outputs), _by_name(new.outputs)
    batched = _batch_was_freed(old, new)
    for name, spec in before.items():
        if name not in now:
            yield f"output {name!r} ({_shown(spec)}) is gone; there are {_names(new.outputs)}"
            continue
        # Whoever sends one row gets one row, also where more would be taken now.
        given = spec.shape[:1] + now[name].shape[1:] if batched else now[name].shape
        yield from _changed("output", spec, now[name], _narrower(given, spec.shape))


def _changed(kind: str, old: TensorSpec, new: TensorSpec, misfit: bool) -> Iterator[str]:
    if old.datatype != new.datatype:
        yield f"{kind} {old.name!r}: datatype {old.datatype} before, {new.datatype} now"
    if len(old.shape) != len(new.shape):
        ranks = f"rank {len(old.shape)} {list(old.shape)} before, rank {len(new.shape)} {list(new.shape)} now"
        yield f"{kind} {old.name!r}: {ranks}"
    elif misfit:
        yield f"{kind} {old.name!r}: shape {list(old.shape)} before, {list(new.shape)} now"


def _narrower(given: Sequence[int], taken: Sequence[int]) -> bool:
    """Whether something of the one shape may not fit into the other."""
    return any(theirs not in (_ANY, ours) for ours, theirs in zip(given, taken, strict=False))


def _batch_was_freed(old: Contract, new: Contract) -> bool:
    """Whether all inputs had one and the same fixed number of rows, as the outputs, and now take any."""
    rows = {spec.shape[:1] for spec in (*old.inputs, *old.outputs)}
    firsts = [spec.shape[:1] for spec in (*new.inputs, *new.outputs)]
    return len(rows) == 1 and bool(firsts) and all(first == (_ANY,) for first in firsts)


def _by_name(specs: Sequence[TensorSpec]) -> Mapping[str, TensorSpec]:
    return {spec.name: spec for spec in specs}


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _names(specs: Sequence[TensorSpec]) -> str:
    names = [repr(spec.name) for spec in specs]
    if len(names) > _SHOWN:
        names = [*names[:_SHOWN], f"{len(names) - _SHOWN} more"]
    return ", ".join(names) or "none"
