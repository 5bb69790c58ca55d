"""The Airflow connection, read and checked."""

from __future__ import annotations

import json
import logging
import math
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import certifi

from airflow_provider_importprog.api.client import API_VERSIONS, ApiVersion
from airflow_provider_importprog.api.model import ImportFile, ImportJob
from airflow_provider_importprog.api.protocol import Address
from airflow_provider_importprog.exceptions import ImportSettingInvalid

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_importprog._storage import StorageKeys

log = logging.getLogger(__name__)

CONN_TYPE = "importprog"

_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 30.0
# What Zilliz Cloud allows a user on an endpoint.
_MAX_REQUESTS_PER_SECOND = 20.0
_REDACTED = "***"
# A shorter secret turns up by chance in what a server says.
SHORTEST_REDACTED = 6


@dataclass(frozen=True)
class ImportConnection:
    """Where the import API is, and how to talk to it.

    :param base_url: scheme, host, port and path, with no slash at the end.
    :param token: what follows ``Bearer``, or None for a server without authentication.
    :param connect_timeout: seconds.
    :param read_timeout: seconds.
    :param verify: as in requests: a bool, or the path of a CA bundle.
    :param cert: as in requests: the path of a client certificate, or the paths of it and its key.
    :param idempotency_keys: whether the server is known to honour ``Idempotency-Key``.
    :param storage: the keys of an object storage that the server was told, and may echo.
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
    storage: StorageKeys | None = None

    @classmethod
    def read(cls, connection: Connection) -> ImportConnection:
        """Read an Airflow connection.

        :raises ImportSettingInvalid: a field holds what it must not. The message names the field, and never
            shows a login or a password.
        """
        conn_id = connection.conn_id
        place = f"Connection {conn_id!r}"
        if connection.conn_type and connection.conn_type != CONN_TYPE:
            raise ImportSettingInvalid(
                f"{place} is of type {connection.conn_type!r}, not {CONN_TYPE!r}: name another connection, or "
                "change its type."
            )
        extra = _Extra(place, connection.extra)
        timeout = extra.positive("timeout")
        settings = cls(
            conn_id=conn_id,
            base_url=_base_url(place, connection.host, connection.schema, connection.port),
            token=_token(place, connection.login, connection.password),
            address=Address(
                cluster_id=extra.text("cluster_id"),
                project_id=extra.text("project_id"),
                region_id=extra.text("region_id"),
                db_name=extra.text("db_name"),
            ),
            api_version=extra.api_version(),
            connect_timeout=timeout or _CONNECT_TIMEOUT,
            read_timeout=timeout or _READ_TIMEOUT,
            verify=extra.verify(),
            cert=extra.cert(),
            max_requests_per_second=extra.positive("max_requests_per_second") or _MAX_REQUESTS_PER_SECOND,
            idempotency_keys=extra.flag("idempotency_keys"),
        )
        if settings.idempotency_keys:
            if settings.api_version == "v1":
                raise ImportSettingInvalid(
                    f"{place}: extra 'idempotency_keys' and 'api_version' v1 do not go together: only v2 has such keys."
                )
            # A server may serve v1 too, which would ignore the key.
            settings = replace(settings, api_version="v2")
        if (settings.address.project_id is None) != (settings.address.region_id is None):
            raise ImportSettingInvalid(f"{place}: extra 'project_id' and 'region_id' go together; one is missing.")
        if isinstance(settings.verify, str) or settings.cert is not None:
            try:
                settings.tls_context()
            except (OSError, ValueError) as error:
                raise ImportSettingInvalid(
                    f"{place}: extra 'verify' or 'cert' is no certificate in PEM format: {error}."
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

    def check_two_phase(self) -> None:
        """Refuse to look for an import that awaits its commit where that cannot be seen.

        :raises ImportSettingInvalid: the connection speaks v1.
        """
        if self.api_version == "v1":
            raise ImportSettingInvalid(
                f"Connection {self.conn_id!r} speaks v1, which does not show that an import job is uncommitted: set "
                "'api_version' in its extra to v2, or wait for completed."
            )

    def redact_id(self, words: str) -> str:
        """Return a name that a server gave with the token blotted out, should it have echoed it."""
        return redact_forms(words, self._token_forms)

    def redact(self, words: str) -> str:
        """Return what a server said of an error with every secret blotted out that it was told."""
        return redact_forms(self.redact_id(words), self._other_forms)

    def redact_job(self, job: ImportJob) -> ImportJob:
        """Return an import job with the secrets blotted out, should the server have echoed them."""
        name, error = self.redact_id(job.collection_name), job.error_message and self.redact(job.error_message)
        files = tuple([self._redact_file(file) for file in job.files])
        # A job may have thousands of files, and this runs at every poll: only what changed is made anew.
        if name == job.collection_name and error == job.error_message and files == job.files:
            return job
        return replace(job, collection_name=name, error_message=error, files=files)

    def _redact_file(self, file: ImportFile) -> ImportFile:
        name, error = self.redact_id(file.file_name), file.error_message and self.redact(file.error_message)
        if name == file.file_name and error == file.error_message:
            return file
        return replace(file, file_name=name, error_message=error)

    @cached_property
    def _token_forms(self) -> tuple[str, ...]:
        return secret_forms(self.token)

    @cached_property
    def _other_forms(self) -> tuple[str, ...]:
        storage = self.storage.forms if self.storage else ()
        return (*secret_forms((self.token or "").partition(":")[2]), *storage)


def secret_forms(*secrets: str | None) -> tuple[str, ...]:
    """Return how secrets may stand in what a server said: as they are, as JSON escapes them, and as a URL does."""
    kept = [secret for secret in secrets if secret and len(secret) >= SHORTEST_REDACTED]
    forms = {form for secret in kept for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    # One may be part of another, which would then be found no more.
    return tuple(sorted(forms, key=len, reverse=True))


def redact_forms(words: str, forms: Iterable[str]) -> str:
    """Return words with a blot in place of each of these forms of a secret."""
    for form in forms:
        words = words.replace(form, _REDACTED)
    return words


def _base_url(place: str, host: str | None, schema: str | None, port: int | None) -> str:
    host = (host or "").strip()
    if not host:
        raise ImportSettingInvalid(f"{place} has no host: it is a base URL, such as http://localhost:19530.")
    scheme = (schema or "").strip().lower() or "https"
    if scheme not in ("http", "https"):
        raise ImportSettingInvalid(f"{place}: schema must be http or https, not {schema!r}.")
    if "@" in host:
        # What stands before it may be a password, so the host is not shown.
        raise ImportSettingInvalid(
            f"{place}: host holds a user name or a password. Put them into the login and the password."
        )
    if "://" not in host and "[" not in host and host.count(":") > 1:
        host = f"[{host}]"  # an IPv6 address, whose brackets Airflow takes off when it reads a URI
    if "?" in host or "#" in host:
        raise ImportSettingInvalid(f"{place}: host must end before any '?' or '#'.")
    url = host if "://" in host else f"{scheme}://{host}"
    try:
        parts = urlsplit(url)
        own_port = parts.port
    except ValueError:
        raise ImportSettingInvalid(f"{place}: host is no URL, such as http://localhost:19530.") from None
    bare = parts.hostname or ""
    if parts.scheme.lower() not in ("http", "https") or not bare or any(c.isspace() or c in '<>"\\^`{|}' for c in url):
        raise ImportSettingInvalid(f"{place}: host {host!r} is no http or https URL, such as http://localhost:19530.")
    if port is not None and not 0 <= port <= 65535:
        raise ImportSettingInvalid(f"{place}: port must be from 1 to 65535, not {port}.")
    if port and own_port and port != own_port:
        raise ImportSettingInvalid(f"{place}: host names port {own_port}, and port is {port}. Leave one of them out.")
    port = own_port or port
    name = f"[{bare}]" if ":" in bare else bare
    return f"{parts.scheme.lower()}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _token(place: str, login: str | None, password: str | None) -> str | None:
    login, password = (login or "").strip(), (password or "").strip()
    if login and not password:
        raise ImportSettingInvalid(
            f"{place} has a login and no password. For an API key, leave the login empty and put the key into the "
            "password."
        )
    token = f"{login}:{password}" if login else password
    if not all("\x21" <= character <= "\x7e" for character in token):
        raise ImportSettingInvalid(
            f"{place}: login and password may hold no spaces, control or non-ASCII characters: they travel in an "
            "HTTP header."
        )
    return token or None


class _Extra:
    """The extra of a connection. A URI can only hold strings in it, so numbers and bools may be strings."""

    _KNOWN = frozenset(
        {
            "api_version",
            "cert",
            "cluster_id",
            "db_name",
            "idempotency_keys",
            "max_requests_per_second",
            "project_id",
            "region_id",
            "timeout",
            "verify",
        }
    )

    def __init__(self, place: str, extra: str | None) -> None:
        self._place = place
        try:
            # Airflow's own reading of it takes a broken extra for an empty one.
            parsed = json.loads(extra) if extra and extra.strip() else {}
        except (ValueError, RecursionError):
            raise ImportSettingInvalid(f"{place}: extra is no JSON.") from None
        if not isinstance(parsed, dict):
            raise ImportSettingInvalid(f'{place}: extra must be a JSON object, such as {{"timeout": 60}}.')
        self._fields: Mapping[str, Any] = parsed

    def warn_of_unknown(self) -> None:
        unknown = sorted(self._fields.keys() - self._KNOWN)
        if unknown:
            log.warning("%s: extra fields %s are not known and do nothing.", self._place, ", ".join(unknown))

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._invalid(name, value, "a string")
        return value.strip() or None

    def positive(self, name: str) -> float | None:
        value = self._fields.get(name)
        if value is None or value == "":
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 < number < math.inf:
            raise self._invalid(name, value, "a number above 0")
        return number

    def api_version(self) -> ApiVersion:
        value = self.text("api_version") or "auto"
        for version in API_VERSIONS:
            if value == version:
                return version
        raise self._invalid("api_version", value, f"one of {', '.join(API_VERSIONS)}")

    def verify(self) -> bool | str:
        value = self._fields.get("verify")
        if value is None or isinstance(value, bool):
            return value is not False
        words = {"": True, "true": True, "false": False}
        if isinstance(value, str) and value.strip().lower() in words:
            return words[value.strip().lower()]
        if not isinstance(value, str):
            raise self._invalid("verify", value, "true, false, or the path of a CA bundle")
        return self._existing("verify", value)

    def flag(self, name: str) -> bool:
        value = self._fields.get(name)
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else value
        if word in (None, "", "false"):
            return False
        if word == "true":
            return True
        raise self._invalid(name, value, "true or false")

    def cert(self) -> str | tuple[str, str] | None:
        value = self._fields.get("cert")
        if value is None or value == "":
            return None
        if isinstance(value, str):
            return self._existing("cert", value)
        if isinstance(value, list) and len(value) == 2 and all(isinstance(path, str) for path in value):
            return self._existing("cert", value[0]), self._existing("cert", value[1])
        raise self._invalid("cert", value, "the path of a certificate, or a list of it and its key")

    def _existing(self, name: str, path: str) -> str:
        if not os.path.exists(path):
            raise self._invalid(name, path, "the path of a file that is on this machine")
        return path

    def _invalid(self, name: str, value: Any, promised: str) -> ImportSettingInvalid:
        return ImportSettingInvalid(f"{self._place}: extra {name!r} must be {promised}, not {value!r}.")
