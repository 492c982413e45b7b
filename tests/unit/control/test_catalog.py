"""Which models there are, from everywhere they can come from."""

from __future__ import annotations

from router.control.catalog import unknown_model
from router.model import ModelName, RegisteredModel, RegistryView, Version, VersionId

M = ModelName("m")


def view(registry: str, *models: str) -> RegistryView:
    """A registry that has models of one version each."""
    names = map(ModelName, models)
    one = VersionId("1")
    return RegistryView(
        registry,
        {name: RegisteredModel(registry, name, {one: Version(registry, name, one)}) for name in names},
    )


def test_a_model_of_another_registry_is_told_with_the_route_that_serves_it() -> None:
    """Not that there is none."""
    elsewhere = unknown_model(M, {"local": view("local", "n"), "bucket": view("bucket", "m")})
    nowhere = unknown_model(M, {"local": view("local", "n"), "bucket": view("bucket")})

    assert (
        elsewhere.message
        == "model 'm' is in registry 'bucket', which is not the default one, and has no route"
    )
    assert elsewhere.hint == "`stagegate route set m stable=VERSION:100 --registry bucket` serves it"
    assert nowhere.message == "no registry and no backend has a model 'm'"
