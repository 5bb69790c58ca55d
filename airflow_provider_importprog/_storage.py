"""The keys of an object storage, from the Airflow connection that users keep them in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_importprog.exceptions import ImportConnectionNotFound, ImportSettingInvalid

try:
    from airflow.providers.common.compat.sdk import mask_secret
except ImportError:  # an older release of common-compat
    try:
        from airflow.sdk.log import mask_secret
    except ImportError:  # Airflow 2
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[import-not-found,no-redef]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

# By type of connection: where the extra holds access key, secret key and session token.
_EXTRA_FIELDS: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("aws", "s3", "generic"), ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")),
    "google_cloud_platform": ("hmac_access_id", "hmac_secret", ""),
    "wasb": ("", "", ""),
}
_NEEDED = {
    "google_cloud_platform": "Put an HMAC key into it, its access id as the login and its secret as the password: a "
    "key file or a service account does not open the storage to the import.",
    "wasb": "Put the storage account's name into its login, and the account's key into its password.",
}
_NEEDED_FOR_S3 = (
    "Put an access key into its login, and the secret key into its password: a role or a profile of this machine does "
    "not open the storage to the import."
)


@dataclass(frozen=True)
class StorageKeys:
    """What opens an object storage to the server that imports from it."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def storage_keys(storage_conn_id: str) -> StorageKeys:
    """Read the keys of a connection of type ``aws``, ``s3``, ``generic``, ``google_cloud_platform`` or ``wasb``.

    :raises ImportSettingInvalid: the connection is of another type, or holds no keys.
    """
    try:
        connection = BaseHook.get_connection(storage_conn_id)
    except AirflowNotFoundException:
        raise ImportConnectionNotFound(
            f"Connection {storage_conn_id!r} is not defined: add it, or correct storage_conn_id."
        ) from None
    return _read(storage_conn_id, connection)


async def async_storage_keys(storage_conn_id: str) -> StorageKeys:
    """Read the keys of a connection as `storage_keys` does, and never block the event loop."""
    from airflow.providers.common.compat.connection import get_async_connection

    connection = await get_async_connection(storage_conn_id)
    # Airflow masks what is read, which may block.
    return await asyncio.to_thread(_read, storage_conn_id, connection)


def _read(storage_conn_id: str, connection: Connection) -> StorageKeys:
    kind = connection.conn_type
    if kind not in _EXTRA_FIELDS:
        raise ImportSettingInvalid(
            f"storage_conn_id {storage_conn_id!r} is a connection of type {kind!r}, not one of "
            f"{', '.join(_EXTRA_FIELDS)}."
        )
    extra = connection.extra_dejson
    in_login, in_password, in_token = (extra.get(name) for name in _EXTRA_FIELDS[kind])
    access_key = connection.login or in_login or (_account(connection) if kind == "wasb" else None)
    secret_key = connection.password or in_password
    for secret in (access_key, secret_key, in_token):
        if secret:
            mask_secret(secret)
    if not _is_key(access_key) or not _is_key(secret_key) or not (in_token is None or _is_key(in_token)):
        raise ImportSettingInvalid(
            f"Connection {storage_conn_id!r} holds no access key and secret key. {_NEEDED.get(kind, _NEEDED_FOR_S3)}"
        )
    return StorageKeys(str(access_key), str(secret_key), in_token)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _account(connection: Connection) -> str | None:
    """Return the storage account that a host such as ``account.blob.core.windows.net`` is of."""
    host = connection.host or ""
    return (urlsplit(host).hostname or "" if "://" in host else host).partition(".")[0] or None
