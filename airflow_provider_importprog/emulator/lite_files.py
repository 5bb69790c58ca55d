"""Reads files as Milvus's import does: Parquet, JSON, CSV, and NumPy files of one column each."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_importprog.emulator.backend import local_path

SLICE_ROWS = 1000
"""Rows that are read and handed on at a time."""

Row = dict[str, Any]


class FileError(Exception):
    """The file cannot be imported; the message is the reason."""


@dataclass
class Rows:
    """The rows of one entry of an import."""

    total: int
    slices: Iterator[list[Row]]
    """At most `SLICE_ROWS` each; raises `FileError` where a row cannot be read."""


def open_rows(entry: Sequence[str], schema: Any, options: Mapping[str, str]) -> Rows:
    """Open the files of one entry.

    :param entry: one file, or the NumPy files of a set.
    :param schema: the collection's (a `CollectionSchema`), for what a file has only as text.
    :param options: the import's; ``sep`` and ``nullkey`` are for CSV files.
    """
    paths = [Path(local_path(name)) for name in entry]
    kinds = {path.suffix.lower() for path in paths}
    kind = kinds.pop() if len(kinds) == 1 else ""
    for path in paths:
        if not path.is_file():
            raise FileError(f"no such file: {path}")
    if kind == ".npy":
        return _numpy_rows(paths)
    if len(paths) > 1 or kind not in READERS:
        raise FileError(
            f"unexpected file type, files={[str(path) for path in paths]}: an entry is one file "
            f"({', '.join(READERS)}) or the .npy files of one set"
        )
    return READERS[kind](paths[0], schema, options)


def _sliced(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while part := list(itertools.islice(rows, SLICE_ROWS)):
        yield part


def _json_rows(path: Path, schema: Any, options: Mapping[str, str]) -> Rows:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not valid JSON")

    try:
        content = json.loads(path.read_bytes(), parse_constant=refuse)
    except (ValueError, RecursionError) as problem:
        raise FileError(f"invalid JSON: {problem}") from None
    rows = content.get("rows") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise FileError('invalid JSON format: the root must be a list of rows, or an object {"rows": [...]}')
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise FileError(f"invalid JSON format: row {number} is not an object")
    return Rows(len(rows), _sliced(iter(rows)))


def _csv_rows(path: Path, schema: Any, options: Mapping[str, str]) -> Rows:
    separator, null = options.get("sep", ","), options.get("nullkey", "")
    if len(separator) != 1 or separator in '\0\n\r"':
        raise FileError(f"unsupported csv separator: {separator!r}")
    csv.field_size_limit(sys.maxsize)  # a vector is longer than the module's limit
    fields = {field.name: field for field in schema.fields}

    def lines() -> Iterator[list[str]]:
        with path.open(newline="", encoding="utf-8-sig") as file:
            try:
                yield from (line for line in csv.reader(file, delimiter=separator, strict=True) if line)
            except (csv.Error, UnicodeDecodeError) as problem:
                raise FileError(f"invalid CSV: {problem}") from None

    header = next(lines(), None)
    if header is None or len(set(header)) < len(header):
        raise FileError(f"invalid CSV: the header must name each column once, and is {header}")

    def rows() -> Iterator[Row]:
        for number, line in enumerate(itertools.islice(lines(), 1, None)):
            if len(line) != len(header):
                raise FileError(f"invalid CSV: row {number} has {len(line)} values, and the header {len(header)}")
            row = {}
            for name, text in zip(header, line, strict=True):
                try:
                    row[name] = None if text == null else _from_text(fields.get(name), text)
                except ValueError:
                    kind = fields[name].dtype.name
                    raise FileError(f"row {number}: field {name!r} value {text!r} is no {kind}") from None
            yield row

    return Rows(sum(1 for _ in lines()) - 1, _sliced(rows()))


def _from_text(field: Any, text: str) -> Any:
    """Return the value that stands in a CSV cell; raises ValueError."""
    kind = "VARCHAR" if field is None else field.dtype.name
    if kind.startswith("INT"):
        return int(text)
    if kind in ("FLOAT", "DOUBLE"):
        return float(text)
    if kind == "BOOL":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind in ("ARRAY", "JSON", "FLOAT_VECTOR", "SPARSE_FLOAT_VECTOR"):
        return json.loads(text)
    return text


def _parquet_rows(path: Path, schema: Any, options: Mapping[str, str]) -> Rows:
    # By name, because the extra may not be installed and pyarrow brings no types.
    pyarrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as problem:
        raise FileError(f"invalid Parquet: {problem}") from None

    def slices() -> Iterator[list[Row]]:
        with file:
            try:
                for batch in file.iter_batches(batch_size=SLICE_ROWS):
                    yield batch.to_pylist()
            except (pyarrow.ArrowException, OSError) as problem:
                raise FileError(f"invalid Parquet: {problem}") from None

    return Rows(file.metadata.num_rows, slices())


def _numpy_rows(paths: Sequence[Path]) -> Rows:
    numpy = importlib.import_module("numpy")
    columns = {}
    for path in paths:
        try:
            column = numpy.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as problem:
            raise FileError(f"invalid NumPy file {path}: {problem}") from None
        if not column.shape:
            raise FileError(f"invalid NumPy file {path}: a column has at least one dimension")
        if path.stem in columns:
            raise FileError(f"the NumPy files of a set have one column twice: {path.stem}")
        columns[path.stem] = column
    counts = {name: len(column) for name, column in columns.items()}
    total = next(iter(counts.values()))
    if set(counts.values()) != {total}:
        raise FileError(f"the NumPy files of a set have different numbers of rows: {counts}")

    def slices() -> Iterator[list[Row]]:
        for begin in range(0, total, SLICE_ROWS):
            part = {name: column[begin : begin + SLICE_ROWS].tolist() for name, column in columns.items()}
            yield [dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]

    return Rows(total, slices())


READERS: dict[str, Callable[[Path, Any, Mapping[str, str]], Rows]] = {
    ".parquet": _parquet_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
}


class RowForm:
    """Brings a row that was read into the form that the engine takes.

    :param schema: the collection's (a `CollectionSchema`).
    :param new_id: makes a primary key, for collections that fill it themselves.
    """

    def __init__(self, schema: Any, new_id: Callable[[], int]) -> None:
        self._new_id = new_id
        self._auto_id = next((field.name for field in schema.fields if field.is_primary and field.auto_id), None)
        self._sparse = [field.name for field in schema.fields if field.dtype.name == "SPARSE_FLOAT_VECTOR"]

    def of(self, row: Row) -> Row:
        """Return the row with its dynamic fields beside the others; raises `FileError`."""
        row = dict(row)
        dynamic = row.pop("$meta", None)
        try:
            if isinstance(dynamic, str):
                dynamic = json.loads(dynamic)
            for name in self._sparse:
                if row.get(name) is not None:
                    row[name] = _sparse_vector(row[name])
        except (ValueError, TypeError, AttributeError) as problem:
            raise FileError(str(problem)) from None
        if dynamic is not None:
            if not isinstance(dynamic, dict):
                raise FileError("the dynamic field '$meta' must be a JSON object")
            row = {**dynamic, **row}
        if self._auto_id is not None:
            if self._auto_id in row:
                raise FileError(f"the primary key {self._auto_id!r} is auto-generated, no need to provide it")
            # Made here and not by the engine, so that rows that are published once more replace themselves.
            row[self._auto_id] = self._new_id()
        return row


def _sparse_vector(value: Any) -> dict[int, float]:
    """Read ``{"12": 0.5}`` or ``{"indices": [12], "values": [0.5]}``, or the same as text."""
    if isinstance(value, str):
        value = json.loads(value)
    if set(value) == {"indices", "values"}:
        return dict(zip(value["indices"], value["values"], strict=True))
    return {int(index): weight for index, weight in value.items()}
