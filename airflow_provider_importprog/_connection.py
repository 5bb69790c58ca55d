"""The Airflow connection, read and checked."""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import certifi

from airflow_provider_importprog._collection import DEFAULT_DATABASE, DEFAULT_PORT, Collection
from airflow_provider_importprog._provider_info import EXTRA_FIELDS
from airflow_provider_importprog.api.client import ApiVersion
from airflow_provider_importprog.api.protocol import Address
from airflow_provider_importprog.exceptions import ImportSettingInvalid

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

log = logging.getLogger(__name__)

CONN_TYPE = "importprog"

_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 30.0
# What Zilliz Cloud allows a user on an endpoint.
_MAX_REQUESTS_PER_SECOND = 20.0


@dataclass(frozen=True)
class ImportConnection:
    """Where the import API is, and how to ask it.

    :param base_url: scheme, host, port and path, with no slash at the end.
    :param token: what follows ``Bearer``, or None for a server without authentication.
    :param connect_timeout: seconds.
    :param read_timeout: seconds.
    :param verify: as in requests: a bool, or the path of a CA bundle.
    :param cert: as in requests: the path of a client certificate, or the paths of it and its key.
    :param idempotency_keys: whether the server is known to honour ``Idempotency-Key``.
    :param console_url: the page of an import job, with names in braces.
    """

    conn_id: str
    base_url: str
    token: str | None = field(repr=False)
    address: Address
    api_version: ApiVersion
    connect_timeout: float
    read_timeout: float
    verify: bool | str
    cert: str | tuple[str, str] | None
    max_requests_per_second: float
    idempotency_keys: bool = False
    console_url: str | None = None

    @classmethod
    def read(cls, connection: Connection) -> ImportConnection:
        """Read an Airflow connection.

        :raises ImportSettingInvalid: a field holds what it must not. The message names the field, and never
            shows a login or a password.
        """
        conn_id = connection.conn_id
        named = f"Connection {conn_id!r}"
        if connection.conn_type and connection.conn_type != CONN_TYPE:
            raise ImportSettingInvalid(
                f"{named} is of type {connection.conn_type!r}, not {CONN_TYPE!r}: name another connection, or "
                "change its type."
            )
        extra = _Extra(named, connection.extra)
        timeout = extra["timeout"]
        settings = cls(
            conn_id=conn_id,
            base_url=_base_url(named, connection.host, connection.schema, connection.port),
            token=_token(named, connection.login, connection.password),
            address=Address(
                cluster_id=extra["cluster_id"],
                project_id=extra["project_id"],
                region_id=extra["region_id"],
                db_name=extra["db_name"],
            ),
            api_version=extra["api_version"],
            connect_timeout=timeout or _CONNECT_TIMEOUT,
            read_timeout=timeout or _READ_TIMEOUT,
            verify=extra["verify"],
            cert=extra["cert"],
            max_requests_per_second=extra["max_requests_per_second"] or _MAX_REQUESTS_PER_SECOND,
            idempotency_keys=extra["idempotency_keys"],
            console_url=extra["console_url"],
        )
        if settings.idempotency_keys:
            if settings.api_version == "v1":
                raise ImportSettingInvalid(
                    f"{named}: extra 'idempotency_keys' and 'api_version' v1 do not go together: only v2 has such keys."
                )
            # A server may serve v1 too, which would ignore the key.
            settings = replace(settings, api_version="v2")
        if settings.console_url and settings.token and settings.token in settings.console_url:
            raise ImportSettingInvalid(
                f"{named}: extra 'console_url' holds the API key, and everybody who may see a task would see it."
            )
        if (settings.address.project_id is None) != (settings.address.region_id is None):
            raise ImportSettingInvalid(f"{named}: extra 'project_id' and 'region_id' go together; one is missing.")
        if isinstance(settings.verify, str) or settings.cert is not None:
            try:
                settings.tls_context()
            except (OSError, ValueError) as error:
                raise ImportSettingInvalid(
                    f"{named}: extra 'verify' or 'cert' is no certificate in PEM format: {error}."
                ) from None
        extra.warn_of_unknown()
        return settings

    def tls_context(self) -> ssl.SSLContext:
        """Return for aiohttp what requests makes of the same settings and the same environment.

        :raises OSError: a file is not there, or holds no certificate.
        """
        if self.verify is False:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            named = self.verify if isinstance(self.verify, str) else None
            authorities = (
                named or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
            )
            folder = os.path.isdir(authorities)
            context = ssl.create_default_context(
                capath=authorities if folder else None, cafile=None if folder else authorities
            )
        if self.cert is not None:
            cert, key = (self.cert, None) if isinstance(self.cert, str) else self.cert
            # Without a password, OpenSSL would ask a person for that of an encrypted key.
            context.load_cert_chain(cert, key, password="")
        return context

    @property
    def server(self) -> str:
        """What tells the jobs of one server from those of another: its base URL and the database."""
        return f"{self.base_url} {self._database}"

    @property
    def _database(self) -> str:
        return self.address.db_name or DEFAULT_DATABASE

    def collection(self, name: str, cluster_id: str | None = None) -> Collection:
        """Return where a collection is.

        Of a cluster, the address of the control plane says nothing: its id stands for it, as in `create_asset`.

        :param cluster_id: counts instead of the connection's cluster.
        """
        if cluster := cluster_id or self.address.cluster_id:
            return Collection(cluster.lower(), DEFAULT_PORT, self._database, name)
        parts = urlsplit(self.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Collection(str(parts.hostname), port, self._database, name)

    def job_page(self, job_id: str, cluster_id: str | None, collection_name: str | None) -> str | None:
        """Return the URL of a job's page, or None where there is none, or something it names is not known."""
        page = self.console_url
        known = {
            "job_id": job_id,
            "cluster_id": cluster_id or self.address.cluster_id,
            "collection_name": collection_name,
        }
        for name, value in known.items():
            if page and f"{{{name}}}" in page:
                page = page.replace(f"{{{name}}}", quote(value, safe="")) if value else None
        return page

    def check_two_phase(self) -> None:
        """Refuse to wait for an uncommitted import where that cannot be seen.

        :raises ImportSettingInvalid: the connection uses v1.
        """
        if self.api_version == "v1":
            raise ImportSettingInvalid(
                f"Connection {self.conn_id!r} uses v1, which does not show that an import job is uncommitted: set "
                "'api_version' in its extra to v2, or wait for completed."
            )


def _base_url(named: str, host: str | None, schema: str | None, port: int | None) -> str:
    host = (host or "").strip()
    if not host:
        raise ImportSettingInvalid(f"{named} has no host: it is a base URL, such as http://localhost:19530.")
    scheme = (schema or "").strip().lower() or "https"
    if scheme not in ("http", "https"):
        raise ImportSettingInvalid(f"{named}: schema must be http or https, not {schema!r}.")
    if "@" in host:
        # What stands before it may be a password, so the host is not shown.
        raise ImportSettingInvalid(
            f"{named}: host holds a user name or a password. Put them into the login and the password."
        )
    if "://" not in host and "[" not in host and host.count(":") > 1:
        host = f"[{host}]"  # an IPv6 address, whose brackets Airflow takes off when it reads a URI
    if "?" in host or "#" in host:
        raise ImportSettingInvalid(f"{named}: host must end before any '?' or '#'.")
    url = host if "://" in host else f"{scheme}://{host}"
    try:
        parts = urlsplit(url)
        own_port = parts.port
    except ValueError:
        raise ImportSettingInvalid(f"{named}: host is no URL, such as http://localhost:19530.") from None
    bare = parts.hostname or ""
    if parts.scheme.lower() not in ("http", "https") or not bare or any(c.isspace() or c in '<>"\\^`{|}' for c in url):
        raise ImportSettingInvalid(f"{named}: host {host!r} is no http or https URL, such as http://localhost:19530.")
    if port is not None and not 0 <= port <= 65535:
        raise ImportSettingInvalid(f"{named}: port must be from 1 to 65535, not {port}.")
    if port and own_port and port != own_port:
        raise ImportSettingInvalid(f"{named}: host names port {own_port}, and port is {port}. Leave one of them out.")
    port = own_port or port
    name = f"[{bare}]" if ":" in bare else bare
    return f"{parts.scheme.lower()}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _token(named: str, login: str | None, password: str | None) -> str | None:
    login, password = (login or "").strip(), (password or "").strip()
    if login and not password:
        raise ImportSettingInvalid(
            f"{named} has a login and no password. For an API key, leave the login empty and put the key into the "
            "password."
        )
    token = f"{login}:{password}" if login else password
    if not all("\x21" <= character <= "\x7e" for character in token):
        raise ImportSettingInvalid(
            f"{named}: login and password may hold no spaces, control or non-ASCII characters: they travel in an "
            "HTTP header."
        )
    return token or None


class _Extra:
    """The extra of a connection, each field read as the table of the connection's fields says."""

    def __init__(self, named: str, extra: str | None) -> None:
        self._named = named
        try:
            # Airflow's own reading of it takes a broken extra for an empty one.
            parsed = json.loads(extra) if extra and extra.strip() else {}
        except (ValueError, RecursionError):
            raise ImportSettingInvalid(f"{named}: extra is no JSON.") from None
        if not isinstance(parsed, dict):
            raise ImportSettingInvalid(f'{named}: extra must be a JSON object, such as {{"timeout": 60}}.')
        self._fields: Mapping[str, Any] = parsed

    def __getitem__(self, name: str) -> Any:
        value = self._fields.get(name)
        try:
            return EXTRA_FIELDS[name].parse(value)
        except ValueError as promised:
            # What stands before an @ may be a password.
            shown = "" if "@" in str(value) else f", not {value!r}"
            raise ImportSettingInvalid(f"{self._named}: extra {name!r} must be {promised}{shown}.") from None

    def warn_of_unknown(self) -> None:
        unknown = sorted(self._fields.keys() - EXTRA_FIELDS.keys())
        if unknown:
            log.warning("%s: extra fields %s are not known and do nothing.", self._named, ", ".join(unknown))
