"""Searches, page by page; pages that are byte for byte what they were are not looked into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from router.errors import RegistryUnavailable
from router.registries.mlflow.rest import Session
from router.registries.mlflow.told import page_of

_MOST_PAGES = 1_000
_MOST_BYTES = 256 << 20
"""All pages of a search together: they are looked into when all are here."""
_TOKEN = b'"next_page_token"'


@dataclass(frozen=True, slots=True)
class Page:
    """One page: a digest of its bytes, and the token of the next page, "" for the last."""

    digest: bytes
    token: str


@dataclass(frozen=True, slots=True)
class Search:
    """Attributes:
    path: of the API.
    key: of the list in an answer.
    size: the most entries that MLflow gives at once.
    order: so that what comes or goes between two pages moves as little as possible.
    """

    path: str
    key: str
    size: int
    order: tuple[str, ...]

    def fetch(self, session: Session, before: tuple[Page, ...]) -> tuple[tuple[Page, ...], list[bytes]]:
        """All pages and their bytes. Raises Answered, Malformed, RegistryUnavailable."""
        pages: list[Page] = []
        bodies: list[bytes] = []
        token = ""
        while True:
            more = {"page_token": token} if token else {}
            query = {"max_results": self.size, "order_by": list(self.order)}
            body = session.page(self.path, **query, **more)
            digest = blake2b(body, digest_size=16).digest()
            last = before[len(pages)] if len(pages) < len(before) else None
            if last is not None and last.digest == digest:
                token = last.token
            else:
                token = page_of(session.parsed(self.path, body), self.key)[1] if _TOKEN in body else ""
            pages.append(Page(digest, token))
            bodies.append(body)
            if not token:
                return tuple(pages), bodies
            if len(pages) >= _MOST_PAGES or sum(map(len, bodies)) > _MOST_BYTES:
                raise RegistryUnavailable(f"registry {session.server.registry!r}: its list does not end")

    def entries(self, session: Session, bodies: list[bytes]) -> Iterator[object]:
        """What the pages hold. Raises Malformed, RegistryUnavailable."""
        for body in bodies:
            yield from page_of(session.parsed(self.path, body), self.key)[0]


MODELS = Search("registered-models/search", "registered_models", 1_000, ("name ASC",))
VERSIONS = Search("model-versions/search", "model_versions", 10_000, ("name ASC", "version_number ASC"))
