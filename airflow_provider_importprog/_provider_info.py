"""What Airflow is told of this provider: its modules, its type of connection, and that one's form."""

from __future__ import annotations

from typing import Any


def provider_info(version: str) -> dict[str, Any]:
    """Describe the provider to Airflow."""
    integration = "Milvus / Zilliz Cloud import"
    package = "airflow_provider_importprog"
    optional_text = {"type": ["string", "null"]}
    # The arrows of Airflow's number field start at the minimum, so it must be a value that makes sense.
    optional_number = {"type": ["number", "null"], "minimum": 1}
    return {
        "package-name": "airflow-provider-importprog",
        "name": integration,
        "description": "Gates DAGs on Milvus and Zilliz Cloud import jobs.",
        "versions": [version],
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://milvus.io/docs/import-data.md",
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
                "python-modules": [f"{package}.triggers.import_progress"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "importprog",
                "hook-class-name": f"{package}.hooks.import_progress.ImportProgressHook",
                "hook-name": integration,
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    # Longer labels push their fields out of line.
                    "relabeling": {
                        "host": "Base URL",
                        "login": "User name",
                        "password": "Password or API key",
                        "schema": "Scheme",
                    },
                    # The port on its own, not in the URL: Test of Airflow 3.3.1 and 3.3.2 fails ("Bad Request") for a
                    # connection of any type without one. https://github.com/apache/airflow/pull/73298
                    "placeholders": {
                        "host": "http://localhost",
                        "login": "root; leave it empty for an API key",
                        "schema": "https; only where the base URL has none",
                        "port": "19530 for Milvus, 443 for Zilliz Cloud",
                        # Only the form before 3.0 shows those of extra fields.
                        "cluster_id": "in01-1a2b3c4d5e6f7a8",
                        "project_id": "proj-1a2b3c4d5e6f7a8b9c",
                        "region_id": "aws-us-west-2",
                        "db_name": "default",
                        "api_version": "auto",
                        "idempotency_keys": "false",
                        "timeout": "60",
                        "max_requests_per_second": "20",
                        "verify": "true",
                        "cert": "/etc/ssl/private/client.pem",
                    },
                },
                "conn-fields": {
                    "cluster_id": {
                        "label": "Cluster ID",
                        "description": "Zilliz Cloud cluster, such as in01-1a2b3c4d5e6f7a8, if a task names none",
                        "schema": optional_text,
                    },
                    "project_id": {
                        "label": "Project ID",
                        "description": "Zilliz Cloud project, such as proj-1a2b3c4d5e6f7a8b9c; with a region; v2 only",
                        "schema": optional_text,
                    },
                    "region_id": {
                        "label": "Region ID",
                        "description": "Zilliz Cloud region, such as aws-us-west-2; with a project; v2 only",
                        "schema": optional_text,
                    },
                    "db_name": {
                        "label": "Database",
                        "description": "Milvus database, the default one when empty; v2 only",
                        "schema": optional_text,
                    },
                    "api_version": {
                        "label": "API version",
                        "description": "v1, v2, or auto as when empty: v1 first, and v2 where v1 is not served",
                        # No default: Airflow would save it, and warn in each task's log that a value of
                        # the extra is too short to be masked.
                        "schema": {"type": ["string", "null"], "enum": ["auto", "v1", "v2"]},
                    },
                    "idempotency_keys": {
                        "label": "Idempotency keys",
                        "description": "true for Milvus 2.6.24, 3.0.2 and later: a key alone makes sure of one import; "
                        "false when empty; v2 only",
                        "schema": {"type": ["string", "null"], "enum": ["true", "false"]},
                    },
                    "timeout": {
                        "label": "Request timeout",
                        "description": "Seconds for one request; 5 to connect and 30 to read when empty",
                        "schema": optional_number,
                    },
                    "max_requests_per_second": {
                        "label": "Requests per second",
                        "description": "At most this many in a triggerer, all gates together; 20 when empty",
                        "schema": optional_number,
                    },
                    "verify": {
                        "label": "Verify TLS",
                        "description": "true, false, or the path of a CA bundle; true when empty",
                        "schema": optional_text,
                    },
                    "cert": {
                        "label": "Client certificate",
                        "description": "Path of a PEM file that holds the certificate and its key",
                        "schema": optional_text,
                    },
                },
            }
        ],
    }
