"""Names of this package that only a running task needs: a DAG file should not pay for their import."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class AtRunTime:
    """A module, or a class or function in it, that is imported when it is first used.

    :param name: in the module; empty for the module itself.
    """

    def __init__(self, module: str, name: str = "") -> None:
        self._module = module
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)

    def _load(self) -> Any:
        module = import_module(f"{__package__}.{self._module}")
        return getattr(module, self._name) if self._name else module
