"""How a server may name the files that it was asked to import, and what that proves."""

from __future__ import annotations

import pytest

from airflow_provider_importprog._file_matching import Same, same_files

NO, MAYBE, PROVED = Same.NO, Same.MAYBE, Same.PROVED
ONE = [["a/1.parquet"]]
TWO = [["a/1.parquet"], ["b/1.parquet"]]
SET = [["id.npy", "v.npy"]]
S3 = [["s3://bucket/a/1.parquet"]]
HTTPS = [["https://bucket.s3.amazonaws.com/a/b%20c/1.parquet?X-Sig=s/1"]]
IN_PATH = [["https://s3.eu-west-1.amazonaws.com/bucket/a/1.parquet"]]
AZURE = [["https://account.blob.core.windows.net/container/a/1.parquet"]]
DAY = [["s3://bucket/day/"]]


@pytest.mark.parametrize(
    ("entries", "names", "same"),
    [
        (ONE, ["a/1.parquet"], PROVED),
        (ONE, ["[a/1.parquet]"], PROVED),
        (ONE, ["[/var/lib/milvus/a/1.parquet]"], PROVED),
        (ONE, ["s3://bucket/a/1.parquet"], PROVED),
        (ONE, ["1.parquet"], MAYBE),
        (ONE, [""], MAYBE),
        (ONE, ["[]"], MAYBE),
        (ONE, [], NO),
        (ONE, ["[a/2.parquet]"], NO),
        (ONE, ["[b/1.parquet]"], NO),
        (ONE, ["[aa/1.parquet]"], NO),
        (ONE, ["[a/11.parquet]"], NO),
        (ONE, ["[a/1.parquet]", "[a/2.parquet]"], NO),
        ([["1.parquet"]], ["1.parquet"], PROVED),
        ([["./a//1.parquet"]], ["[a/1.parquet]"], PROVED),
        ([["a 1.parquet"]], ["[/x/a 1.parquet]"], PROVED),
        ([["a, 1.parquet"]], ["[a, 1.parquet]"], PROVED),
        # One path with a space in it, or two files.
        (ONE, ["[x/y z/a/1.parquet]"], NO),
        (S3, ["a/1.parquet"], PROVED),
        (S3, ["bucket/a/1.parquet"], PROVED),
        (S3, ["s3a://bucket/a/1.parquet?v=1"], PROVED),
        (S3, ["1.parquet"], MAYBE),
        (HTTPS, ["a/b c/1.parquet"], PROVED),
        (HTTPS, ["a/b%20c/1.parquet"], PROVED),
        (HTTPS, ["a/b c/1.parquet?X-Sig=2"], PROVED),
        (HTTPS, ["b c/1.parquet"], MAYBE),
        (IN_PATH, ["a/1.parquet"], PROVED),
        (AZURE, ["a/1.parquet"], PROVED),
        ([["http://minio:9000/bucket/a/1.parquet"]], ["a/1.parquet"], MAYBE),
        # The order counts for nothing.
        (TWO, ["[b/1.parquet]", "[a/1.parquet]"], PROVED),
        (TWO, ["[a/1.parquet]", "[a/1.parquet]"], NO),
        (TWO, ["1.parquet", "1.parquet"], MAYBE),
        (TWO, ["[a/1.parquet]"], NO),
        (SET, ["[id.npy v.npy]"], PROVED),
        (SET, ["[/x/v.npy /x/id.npy]"], PROVED),
        (SET, ["id.npy,v.npy"], PROVED),
        (SET, ["[id.npy]"], NO),
        (SET, ["[id.npy v.npy w.npy]"], NO),
        ([["x/id.npy", "x/v.npy"]], ["[v.npy id.npy]"], MAYBE),
        ([["an id.npy", "v.npy"]], ["[x/an id.npy x/v.npy]"], MAYBE),
        ([["1.parquet"], ["x/1.parquet"]], ["[z/x/1.parquet]", "[z/1.parquet]"], PROVED),
        ([["1.parquet"], ["x/1.parquet"]], ["[z/1.parquet]", "[y/1.parquet]"], NO),
        # A folder stands for all that is in it, and so for what another import took from it.
        (DAY, ["day/1.parquet", "day/2.parquet"], MAYBE),
        (DAY, ["[x/day/id.npy x/day/v.npy]"], MAYBE),
        (DAY, ["[night/1.parquet]"], NO),
        (DAY, ["[day/1.parquet night/1.parquet]"], NO),
        ([["/"]], ["[a]"], NO),
    ],
)
def test_same_files(entries: list[list[str]], names: list[str], same: Same) -> None:
    assert same_files(entries, names) is same


@pytest.mark.parametrize("name", ["{}/part-0.parquet", "part-0.parquet", "other/{}/x.parquet"])
def test_as_many_as_a_job_may_have(name: str) -> None:
    entries = [[f"day={number}/part-0.parquet"] for number in range(1024)]
    same_files(entries, [name.format(f"day={number}") for number in range(1024)])
