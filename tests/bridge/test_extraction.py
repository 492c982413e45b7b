"""A value of the wrong shape is refused with the name of its field."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.bridge import DataPlane, Settings
from router.traffic.table import Snapshot, VersionSpec
from tests.bridge.tables import delta, digits, snapshot


def spoiled(**fields: object) -> Snapshot:
    """A snapshot whose first version of its first model has these fields."""
    model = digits()
    bad = replace(model.versions[0], **cast(dict[str, Any], fields))
    return snapshot(replace(model, versions=(bad, *model.versions[1:])))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"version": 1}, r"Snapshot\.models\[0\]\.versions\[0\]\.version must be a str, not int"),
        ({"backends": "t0"}, r"versions\[0\]\.backends must be a tuple or list, not str"),
        ({"backends": ("t0", None)}, r"versions\[0\]\.backends\[1\] must be a str, not NoneType"),
        ({"metadata": "text"}, r"versions\[0\]\.metadata must be bytes, not str"),
    ],
)
def test_a_wrong_type_names_the_field(plane: DataPlane, fields: dict[str, object], expected: str) -> None:
    """TypeError with the path of the field, what it must be and what it is."""
    with pytest.raises(TypeError, match=expected):
        plane.publish(spoiled(**fields))


def test_a_missing_field_names_struct_and_field(plane: DataPlane) -> None:
    """AttributeError with the path of the field and the struct that has it."""
    model = digits()
    fields = {name: getattr(model.versions[0], name) for name in VersionSpec.__slots__ if name != "reason"}
    bad = replace(model, versions=(cast(VersionSpec, SimpleNamespace(**fields)),))

    with pytest.raises(AttributeError, match=r"versions\[0\]\.reason is missing: a VersionSpec has this"):
        plane.publish(snapshot(bad))


def test_a_number_out_of_range_names_the_field(plane: DataPlane) -> None:
    """ValueError with the range."""
    with pytest.raises(ValueError, match=r"Delta\.base_revision must be between 0 and"):
        plane.publish_delta(delta(-1))


@pytest.mark.parametrize(
    ("settings", "error", "expected"),
    [
        (Settings(port=65536), ValueError, r"Settings\.port must be between 0 and 65535"),
        (Settings(threads=-1), ValueError, r"Settings\.threads must be"),
        (Settings(host=cast(str, None)), TypeError, r"Settings\.host must be a str, not NoneType"),
        (Settings(allow=cast(tuple[str, ...], "log")), TypeError, r"Settings\.allow must be a tuple"),
        (Settings(max_frame=cast(int, 1.5)), TypeError, r"Settings\.max_frame must be an int, not float"),
    ],
)
def test_a_wrong_setting_names_the_field(settings: Settings, error: type[Exception], expected: str) -> None:
    """Nothing is started with settings that cannot be."""
    with pytest.raises(error, match=expected):
        DataPlane(settings)


def test_an_error_of_a_property_is_passed_on(plane: DataPlane) -> None:
    """What a field's getter raises reaches the caller as it is."""

    class Lazy:
        revision = 1
        backends = ()

        @property
        def models(self) -> tuple[()]:
            raise KeyError("from the getter")

    with pytest.raises(KeyError, match="from the getter"):
        plane.publish(cast(Snapshot, Lazy()))


def test_lists_are_taken_like_tuples(plane: DataPlane) -> None:
    """Any list or tuple of the right elements will do."""
    plane.publish(cast(Snapshot, SimpleNamespace(revision=4, backends=[], models=[])))

    assert plane.counters().revision == 4
