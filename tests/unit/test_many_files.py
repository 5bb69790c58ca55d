"""What 10,000 files cost a task that imports them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from jinja2 import Environment

from airflow_provider_importprog import _validation
from airflow_provider_importprog.operators.import_job import CreateImportJobOperator

PATHS = [f"s3://bucket/{{{{ ds }}}}/{n}.parquet" if n == 7 else f"import/2026/part-{n}.parquet" for n in range(10_000)]


@pytest.mark.parametrize("native", [False, True])
def test_only_what_holds_a_template_is_rendered_and_no_path_is_held_twice(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    paths = [*PATHS, "2024"] if not native else ["2024", PATHS[7]]
    with DAG("imports", start_date=datetime(2026, 1, 1), schedule=None, render_template_as_native_obj=native):
        task = CreateImportJobOperator(task_id="create", collection_name="books", files=paths)
    compiled: list[Any] = []
    from_string = Environment.from_string
    monkeypatch.setattr(
        Environment, "from_string", lambda *args, **kwargs: compiled.append(args) or from_string(*args, **kwargs)
    )
    task.render_template_fields({"ds": "2026-11-25"})
    assert task.files is not None
    rendered = list(task.files)
    assert rendered[-1] == ("s3://bucket/2026-11-25/7.parquet" if native else "2024")
    if native:
        assert rendered[0] == 2024  # as Airflow does it
        return
    assert rendered[7] == "s3://bucket/2026-11-25/7.parquet"
    assert len(compiled) < 10
    new = _validation.new_import(collection_name="books", files=rendered)
    assert all(path is entry[0] for path, entry in zip(paths, new.files or (), strict=True) if "{" not in str(path))
