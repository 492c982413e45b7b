"""What one key alone cannot tell: names that must exist, things given twice.

All checks look at the document before it is typed and take it as it comes, so that a wrong value in one
place does not hide a mistake in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config.document import Finding, Value, as_list, as_mapping
from gateway.config.units import parse_listen_address


def cross_check(root: dict[str, Value], registries: frozenset[str]) -> Iterator[Finding]:
    """Mistakes between keys.

    Args:
        root: the document.
        registries: names of all registries that were written, wrong ones included.
    """
    yield from _default_registry(root, registries)
    yield from _given_twice(root, "name", "backend name")
    yield from _given_twice(root, "grpc", "address")
    yield from _given_twice(root, "repository", "repository")
    yield from _repositories(root)
    yield from _ports(root)
    yield from _pairs(root)
    yield from _artifacts(as_mapping(root.get("artifacts")))


def _artifacts(artifacts: Mapping[str, Value]) -> Iterator[Finding]:
    """Half of a key pair, and signatures that nothing could check."""
    s3 = as_mapping(artifacts.get("s3"))
    for key, other in (("access_key", "secret_key"), ("secret_key", "access_key")):
        if key in s3 and other not in s3:
            yield ("artifacts", "s3", key), f"needs {other} beside it"
    signature = as_mapping(artifacts.get("signature"))
    given = [key for key in ("public_key", "certificates") if key in signature]
    if len(given) > 1:
        yield ("artifacts", "signature", "certificates"), "is given beside public_key; one of the two"
    if "required" in signature and not given:
        yield ("artifacts", "signature", "required"), "needs public_key or certificates to check with"


def _pairs(root: dict[str, Value]) -> Iterator[Finding]:
    """A certificate for a backend without its key, or the key without it."""
    for index, backend in enumerate(as_list(root.get("backends"))):
        tls = as_mapping(as_mapping(backend).get("tls"))
        for key, other in (("cert", "key"), ("key", "cert")):
            if key in tls and other not in tls:
                yield ("backends", index, "tls", key), f"needs {other} beside it"


def _default_registry(root: dict[str, Value], registries: frozenset[str]) -> Iterator[Finding]:
    default = root.get("default_registry")
    names = ", ".join(sorted(registries)) or "none"
    if isinstance(default, str) and default not in registries:
        yield ("default_registry",), f"there is no registry {default!r}; those given: {names}"
    if default is None and "default_registry" not in root and len(registries) > 1:
        yield ("default_registry",), f"is missing; name one of {names}"


def _given_twice(root: dict[str, Value], key: str, what: str) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, backend in enumerate(as_list(root.get("backends"))):
        value = as_mapping(backend).get(key)
        if not isinstance(value, str):
            continue
        if value in seen:
            yield ("backends", index, key), f"{what} {value!r} is that of backends[{seen[value]}] already"
        seen.setdefault(value, index)


def _repositories(root: dict[str, Value]) -> Iterator[Finding]:
    for index, backend in enumerate(as_list(root.get("backends"))):
        fields = as_mapping(backend)
        explicit = fields.get("control", "none") == "explicit"
        if explicit and "repository" not in fields:
            yield (
                ("backends", index),
                "control: explicit needs repository, the folder on this host that Triton was started on "
                "(a Triton on another host: use control: none)",
            )
        if not explicit and "repository" in fields:
            yield ("backends", index, "repository"), "is only used with control: explicit"


def _ports(root: dict[str, Value]) -> Iterator[Finding]:
    listen = as_mapping(root.get("listen"))
    seen: dict[tuple[str, int], str] = {}
    for key in ("inference", "http", "metrics", "admin"):
        value = listen.get(key)
        try:
            address = parse_listen_address(value) if isinstance(value, str) and value != "off" else None
        except ValueError:
            continue
        if address is None or address.port == 0:
            continue
        place = (address.numeric, address.port)
        if place in seen:
            yield ("listen", key), f"{address} is listen.{seen[place]} already"
        seen.setdefault(place, key)
