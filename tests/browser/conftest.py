"""What the browser's tests need: Selenium, and the example's harness of Airflow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "example_dags"))

# Only the group "browser" of pyproject.toml brings it.
if importlib.util.find_spec("selenium") is None:
    collect_ignore = ["test_connection_form.py"]
