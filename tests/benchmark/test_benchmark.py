"""The benchmark still runs; what it measures is not to be asserted on a busy machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmark.__main__ import main


def test_it_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("airflow.sdk", reason="it logs as the triggerer of Airflow 3 does")
    path = tmp_path / "found.json"
    quick = "--quick --gates 3 --only floor,sharing --tables gates --json"
    main([*quick.split(), str(path)])
    found = json.loads(path.read_text())
    assert [(row["gates"], row["subject"]) for row in found["gates"]] == [(3, "floor"), (3, "sharing")]
    assert "| 3 | the floor |" in capsys.readouterr().out
