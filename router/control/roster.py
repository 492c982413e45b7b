"""Which logical models there are now, out of registries, routes and what backends bring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.control.catalog import Sources, brought_models, choose_model, choose_models, unknown_model
from router.control.orders import Orders
from router.control.reader import RegistryState
from router.control.residents import Residents
from router.errors import ModelNotFound
from router.model import ModelName, RegisteredModel, RegistryView, Route
from router.traffic.compile import Unservable


class Roster:
    """Puts them together again when asked.

    Attributes:
        models: as their registry says, with what was decided here laid over it.
        unnamed: what backends bring and clients cannot name, with the reason.
        default_registry: where models without a route resolve; "" for none.
    """

    def __init__(
        self,
        registries: Mapping[str, RegistryState],
        orders: Orders,
        residents: Residents,
        default_registry: str,
    ) -> None:
        self.models: dict[ModelName, RegisteredModel] = {}
        self.unnamed: tuple[Unservable, ...] = ()
        self.default_registry = default_registry
        self._registries = registries
        self._orders = orders
        self._residents = residents
        self._brought: dict[ModelName, RegisteredModel] = {}

    def choose_all(self) -> set[ModelName]:
        """Put everything together; the models that came, went or differ."""
        indexes = {
            state.name: state.index
            for state in self._residents.backends.values()
            if state.up and not state.loads_for_us
        }
        self._brought, self.unnamed = brought_models(indexes)
        chosen = choose_models(self._sources(), self._orders.routes)
        for name in self._orders.about() & chosen.keys():
            chosen[name] = self._orders.overlaid(chosen[name])
        before, self.models = self.models, chosen
        return {name for name in before.keys() | chosen if _differ(before.get(name), chosen.get(name))}

    def choose(self, names: Iterable[ModelName]) -> None:
        """Put these models together: the cost does not grow with all there are."""
        sources = self._sources()
        for name in names:
            stored = self._orders.routes.get(name)
            model = choose_model(sources, name, stored.route if stored else None)
            if model is None:
                self.models.pop(name, None)
            else:
                self.models[name] = self._orders.overlaid(model)

    def registered(self, route: Route) -> RegisteredModel | None:
        """The model that a route would be about, were it in force; None where there is none."""
        found = self._registered(route)
        return self._orders.overlaid(found) if found is not None else None

    def _registered(self, route: Route) -> RegisteredModel | None:
        state = self._registries.get(route.registry) if route.registry else None
        if state is not None and route.registry != self.default_registry:
            return state.view.models.get(route.model) if state.view else None
        default = self._registries.get(self.default_registry)
        if default is not None and default.view is not None and route.model in default.view.models:
            return default.view.models[route.model]
        return self._brought.get(route.model)

    def said(self, model: RegisteredModel) -> RegisteredModel | None:
        """A model as its registry says it, without what was decided here; None where that is not known."""
        view = self._views().get(model.registry)
        return view.models.get(model.name) if view is not None else None

    def not_found(self, model: ModelName) -> ModelNotFound:
        """Why there is no such model for clients."""
        return unknown_model(model, self._views())

    def _sources(self) -> Sources:
        return Sources(self._views(), self.default_registry, self._brought)

    def _views(self) -> dict[str, RegistryView]:
        return {name: state.view for name, state in self._registries.items() if state.view is not None}


def _differ(before: RegisteredModel | None, now: RegisteredModel | None) -> bool:
    """Whether two are not the same; most are the very same thing, which is cheaper to see."""
    return before is not now and before != now
