"""A collection by its name in the world: server, database, collection. No I/O, no Airflow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

SCHEME = "milvus"
DEFAULT_PORT = 19530
DEFAULT_DATABASE = "default"

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,}\]?")


class Collection(NamedTuple):
    """Where a collection is.

    :param host: a name or an address, in lower case, and without brackets.
    """

    host: str
    port: int
    database: str
    name: str

    @classmethod
    def checked(cls, host: Any, port: Any, database: Any, name: Any, what_host_is: str = "host") -> Collection:
        """Return a collection that can be written as a URI.

        :raises ValueError: it cannot. No value of `host` is shown, which may hold a password.
        """
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ValueError(
                f"{what_host_is} must be a name or an address alone, such as 'milvus.example.com', with no scheme, "
                "user, port or path."
            )
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            raise ValueError(f"port must be a whole number from 1 to 65535, not {port!r}.")
        return cls(host.strip("[]").lower(), port, _name(database, "db_name"), _name(name, "collection_name"))

    @classmethod
    def of(cls, uri: SplitResult) -> Collection:
        """Return the collection that a URI names.

        :raises ValueError: it is none of a collection.
        """
        database, slash, name = uri.path.removeprefix("/").partition("/")
        if uri.scheme != SCHEME or not uri.hostname or "@" in uri.netloc or not slash or uri.query or uri.fragment:
            raise ValueError(
                "the URI of a collection is milvus://host:port/database/collection, with no user, query or fragment."
            )
        port = DEFAULT_PORT if uri.port is None else uri.port
        return cls.checked(uri.hostname, port, unquote(database), unquote(name))

    @property
    def uri(self) -> SplitResult:
        """The one way to write it."""
        path = f"/{quote(self.database, safe='')}/{quote(self.name, safe='')}"
        return SplitResult(SCHEME, self._authority, path, "", "")

    @property
    def namespace(self) -> str:
        """The server as OpenLineage names it: https://openlineage.io/docs/spec/naming."""
        return f"{SCHEME}://{self._authority}"

    @property
    def qualified_name(self) -> str:
        """The collection as OpenLineage names it on its server."""
        return f"{self.database}.{self.name}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def among(self, outlets: Iterable[Any]) -> list[Any]:
        """Return those of a task's outlets that stand for this collection.

        Database and name decide. A server has many host names, so host and port count only where several outlets
        have the same database and name.
        """
        named = [
            (outlet, other)
            for outlet in outlets
            if (other := _of_outlet(outlet)) and (other.database, other.name) == (self.database, self.name)
        ]
        return [outlet for outlet, other in named if len(named) == 1 or other == self]


def _of_outlet(outlet: Any) -> Collection | None:
    """Return the collection of an asset, or None of what stands for something else."""
    try:
        return Collection.of(urlsplit(getattr(outlet, "uri", "")))
    except ValueError:
        return None


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} must be a name, not {value!r}.")
    if "/" in value:
        raise ValueError(f"{what} must hold no slash, and is {value!r}.")
    return value
