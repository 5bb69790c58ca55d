"""What Airflow is told of this provider: its modules, its type of connection, and that one's form.

The fields of a connection stand in one table here: form, placeholders, the parser of the extra and the documentation
are made of it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


def _text(value: Any) -> str | None:
    """Read a text, or None where it is missing or blank."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("a string")
    return value.strip() or None


def _positive(value: Any) -> float | None:
    """Read a number above 0, which a URI can only hold as a string."""
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("a number above 0")
    return number


def _api_version(value: Any) -> str:
    version = _text(value) or "auto"
    if version not in _API_VERSIONS:
        raise ValueError(f"one of {', '.join(_API_VERSIONS)}")
    return version


def _flag(value: Any) -> bool:
    """Read a bool, or its word; False where it is missing."""
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(value, bool):
        return value
    if word in (None, "", "false"):
        return False
    if word == "true":
        return True
    raise ValueError("true or false")


def _console_url(value: Any) -> str | None:
    """Read the URL of a job's page: everybody who may see a task sees it, so it holds no credentials."""
    url = _text(value)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    whole = not re.search(r"[\s{}]", re.sub(r"\{(job_id|cluster_id|collection_name)\}", "", url))
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not whole:
        raise ValueError(
            "an http or https URL without a user name or a password, in which only {job_id}, {cluster_id} and "
            "{collection_name} are in braces"
        )
    return url


def _verify(value: Any) -> bool | str:
    if value is None or isinstance(value, bool):
        return value is not False
    if not isinstance(value, str):
        raise ValueError("true, false, or the path of a CA bundle")
    word = value.strip().lower()
    return word != "false" if word in ("", "true", "false") else _existing(value)


def _cert(value: Any) -> str | tuple[str, str] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return _existing(value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(path, str) for path in value):
        return _existing(value[0]), _existing(value[1])
    raise ValueError("the path of a certificate, or a list of it and its key")


def _existing(path: str) -> str:
    if not os.path.exists(path):
        raise ValueError("the path of a file that is on this machine")
    return path


@dataclass(frozen=True)
class ConnectionField:
    """One field of a connection.

    :param name: as Airflow names it, or its key in the extra.
    :param label: what the form calls it; empty where Airflow's own name for it will do.
    :param description: what it means, and what holds where it is empty.
    :param placeholder: an example. Only the form before Airflow 3.0 shows those of the extra.
    :param schema: the JSON schema of a field of the extra; None for one of Airflow's own fields.
    :param parse: reads a field of the extra; what it must be is the text of the ValueError where it is not.
    """

    name: str
    label: str
    description: str
    placeholder: str
    schema: dict[str, Any] | None = None
    parse: Callable[[Any], Any] = field(default=_text, repr=False)


_API_VERSIONS = ("auto", "v1", "v2")
_TEXT = {"type": ["string", "null"]}
# The arrows of Airflow's number field start at the minimum, so it must be a value that makes sense.
_NUMBER = {"type": ["number", "null"], "minimum": 1}

CONNECTION_FIELDS = (
    # The port on its own, not in the URL: Test of Airflow 3.3.1 and 3.3.2 fails ("Bad Request") for a connection of
    # any type without one. https://github.com/apache/airflow/pull/73298
    ConnectionField("host", "Base URL", "URL of the server, with its scheme", "http://localhost"),
    ConnectionField("login", "User name", "Empty for an API key", "root; leave it empty for an API key"),
    # Airflow shows no placeholder in a field of secrets.
    ConnectionField("password", "Password or API key", "Password of the user, or an API key", ""),
    ConnectionField(
        "schema", "Scheme", "http or https, where the base URL has none", "https; only where the base URL has none"
    ),
    ConnectionField("port", "", "Added to the base URL", "19530 for Milvus, 443 for Zilliz Cloud"),
    ConnectionField(
        "cluster_id",
        "Cluster ID",
        "Zilliz Cloud cluster, such as in01-1a2b3c4d5e6f7a8, if a task names none",
        "in01-1a2b3c4d5e6f7a8",
        _TEXT,
    ),
    ConnectionField(
        "project_id",
        "Project ID",
        "Zilliz Cloud project, such as proj-1a2b3c4d5e6f7a8b9c; with a region; v2 only",
        "proj-1a2b3c4d5e6f7a8b9c",
        _TEXT,
    ),
    ConnectionField(
        "region_id",
        "Region ID",
        "Zilliz Cloud region, such as aws-us-west-2; with a project; v2 only",
        "aws-us-west-2",
        _TEXT,
    ),
    ConnectionField("db_name", "Database", "Milvus database, the default one when empty; v2 only", "default", _TEXT),
    ConnectionField(
        "api_version",
        "API version",
        "v1, v2, or auto as when empty: v1 first, and v2 where v1 is not served",
        "auto",
        # No default: Airflow would save it, and warn in each task's log that a value of the extra is too short to be
        # masked.
        {"type": ["string", "null"], "enum": list(_API_VERSIONS)},
        _api_version,
    ),
    ConnectionField(
        "idempotency_keys",
        "Idempotency keys",
        "true for Milvus 2.6.24, 3.0.2 and later: a key alone makes sure of one import; false when empty; v2 only",
        "false",
        {"type": ["string", "null"], "enum": ["true", "false"]},
        _flag,
    ),
    ConnectionField(
        "timeout",
        "Request timeout",
        "Seconds for one request; 5 to connect and 30 to read when empty",
        "60",
        _NUMBER,
        _positive,
    ),
    ConnectionField(
        "max_requests_per_second",
        "Requests per second",
        "At most this many in a triggerer, all gates together; 20 when empty",
        "20",
        _NUMBER,
        _positive,
    ),
    ConnectionField(
        "console_url",
        "Console URL",
        "Page of an import job, for a link on its tasks; {job_id}, {cluster_id} and {collection_name} are filled in",
        "https://console.example.com/{cluster_id}/jobs/{job_id}",
        _TEXT,
        _console_url,
    ),
    ConnectionField(
        "verify", "Verify TLS", "true, false, or the path of a CA bundle; true when empty", "true", _TEXT, _verify
    ),
    ConnectionField(
        "cert",
        "Client certificate",
        "Path of a PEM file that holds the certificate and its key",
        "/etc/ssl/private/client.pem",
        _TEXT,
        _cert,
    ),
)
#: Those that are kept in the connection's extra, by name.
EXTRA_FIELDS = {each.name: each for each in CONNECTION_FIELDS if each.schema is not None}


_FILES = "https://raw.githubusercontent.com/airflow-provider-importprog/airflow-provider-importprog/main"


def provider_info(version: str) -> dict[str, Any]:
    """Describe the provider to Airflow."""
    integration = "Milvus / Zilliz Cloud import"
    package = "airflow_provider_importprog"
    assets = {
        "schemes": ["milvus"],
        "handler": f"{package}.assets.sanitize_uri",
        "factory": f"{package}.assets.create_asset",
        "to_openlineage_converter": f"{package}.assets.convert_asset_to_openlineage",
    }
    return {
        "package-name": "airflow-provider-importprog",
        "name": integration,
        "description": "Gates DAGs on Milvus and Zilliz Cloud import jobs.",
        "versions": [version],
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://milvus.io/docs/import-data.md",
                "logo": f"{_FILES}/{package}/logo.svg",
                "how-to-guide": ["/docs/sensor.md", "/docs/operators.md"],
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": integration,
                "python-modules": [f"{package}.hooks.import_progress"],
            }
        ],
        "operators": [
            {
                "integration-name": integration,
                "python-modules": [f"{package}.operators.import_job"],
            }
        ],
        "sensors": [
            {
                "integration-name": integration,
                "python-modules": [f"{package}.sensors.import_progress"],
            }
        ],
        "triggers": [
            {
                "integration-name": integration,
                "python-modules": [f"{package}.triggers.import_progress", f"{package}.triggers.import_ended"],
            }
        ],
        "asset-uris": [assets],
        "dataset-uris": [assets],  # Airflow 2
        "extra-links": [f"{package}.links.ImportJobLink"],
        "connection-types": [
            {
                "connection-type": "importprog",
                "hook-class-name": f"{package}.hooks.import_progress.ImportProgressHook",
                "hook-name": integration,
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    # Longer labels push their fields out of line.
                    "relabeling": {
                        each.name: each.label for each in CONNECTION_FIELDS if each.schema is None and each.label
                    },
                    "placeholders": {each.name: each.placeholder for each in CONNECTION_FIELDS if each.placeholder},
                },
                "conn-fields": {
                    name: {"label": each.label, "description": each.description, "schema": deepcopy(each.schema)}
                    for name, each in EXTRA_FIELDS.items()
                },
            }
        ],
    }
