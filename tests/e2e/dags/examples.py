"""An example, from where users of Airflow find it."""

import example_dags.write_audit_publish  # noqa: F401 (makes its DAG)
