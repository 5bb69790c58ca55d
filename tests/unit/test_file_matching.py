"""How a server may name the files that it was asked to import."""

from __future__ import annotations

import pytest

from airflow_provider_importprog._file_matching import same_files

ONE = [["a/1.parquet"]]
SET = [["id.npy", "v.npy"]]


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (ONE, ["a/1.parquet"]),
        (ONE, ["[a/1.parquet]"]),
        (ONE, ["[/var/lib/milvus/a/1.parquet]"]),
        (ONE, ["[a-bucket/files/a/1.parquet]"]),
        ([["./a//1.parquet"]], ["[a/1.parquet]"]),
        ([["s3://bucket/a/1.parquet"]], ["a/1.parquet"]),
        ([["https://bucket.s3.amazonaws.com/a/1.parquet"]], ["1.parquet"]),
        ([["a 1.parquet"]], ["[/x/a 1.parquet]"]),
        ([["a, 1.parquet"]], ["[a, 1.parquet]"]),
        (SET, ["[id.npy v.npy]"]),
        (SET, ["[/x/id.npy /x/v.npy]"]),
        (SET, ["id.npy,v.npy"]),
        ([["1.parquet"], ["x/1.parquet"]], ["[z/x/1.parquet]", "[z/1.parquet]"]),
        ([["a.parquet"], ["b.parquet"]], ["[b.parquet]", "[a.parquet]"]),
        # A folder stands for all that is in it.
        ([["s3://bucket/day/"]], ["day/1.parquet", "day/2.parquet"]),
        ([["s3://bucket/day"]], ["bucket/day/deep/1.parquet"]),
        ([["day/"]], ["[x/day/id.npy x/day/v.npy]"]),
        ([["a/"], ["b/1.parquet"]], ["[a/1.parquet]", "[b/1.parquet]"]),
    ],
)
def test_the_same(entries: list[list[str]], names: list[str]) -> None:
    assert same_files(entries, names)


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (ONE, []),
        (ONE, [""]),
        (ONE, ["[]"]),
        (ONE, ["[a/2.parquet]"]),
        (ONE, ["[b/1.parquet]"]),
        (ONE, ["[aa/1.parquet]"]),
        (ONE, ["[a/11.parquet]"]),
        (ONE, ["[a/1.parquet]", "[a/2.parquet]"]),
        ([*ONE, ["a/2.parquet"]], ["[a/1.parquet]"]),
        (SET, ["[v.npy id.npy]"]),
        (SET, ["[id.npy]"]),
        (SET, ["[id.npy v.npy w.npy]"]),
        ([["day/"]], ["[night/1.parquet]"]),
        ([["day/"]], ["[day/1.parquet night/1.parquet]"]),
        ([["1.parquet"], ["x/1.parquet"]], ["[z/1.parquet]"]),
        ([["/"]], ["[a]"]),
    ],
)
def test_others(entries: list[list[str]], names: list[str]) -> None:
    assert not same_files(entries, names)
