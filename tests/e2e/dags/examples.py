"""Examples, from where users of Airflow find them."""

from contextlib import suppress

import example_dags.write_audit_publish  # noqa: F401 (makes its DAG)

with suppress(ImportError):  # Airflow 2.11 has no watchers
    from example_dags.event_driven import IMPORT_ENDED

    IMPORT_ENDED.collection_name = "watched"
    IMPORT_ENDED.poke_interval = 1
