"""The collection as an asset, as a DAG file makes it and as Airflow reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_importprog._collection import Collection
from airflow_provider_importprog.assets import convert_asset_to_openlineage, create_asset, sanitize_uri

MADE: list[tuple[dict[str, Any], str]] = [
    ({"host": "localhost"}, "milvus://localhost:19530/default/books"),
    ({"host": "Milvus.Example.com", "port": 443, "db_name": "shop"}, "milvus://milvus.example.com:443/shop/books"),
    ({"host": "10.0.0.7"}, "milvus://10.0.0.7:19530/default/books"),
    ({"host": "2001:DB8::7"}, "milvus://[2001:db8::7]:19530/default/books"),
    ({"host": "[::1]"}, "milvus://[::1]:19530/default/books"),
    ({"host": "in01-1a2b.vectordb.zillizcloud.com"}, "milvus://in01-1a2b.vectordb.zillizcloud.com:19530/default/books"),
    ({"host": "api.cloud.zilliz.com", "cluster_id": "in01-1a2b"}, "milvus://in01-1a2b:19530/default/books"),
    ({"host": "h", "collection_name": "Bücher 100 %?#", "db_name": "ä"}, "milvus://h:19530/%C3%A4/B%C3%BCcher%20100%20%25%3F%23"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "uri"), MADE, ids=[uri for _, uri in MADE])
def test_it_is_made_as_airflow_itself_would_write_it(given: dict[str, Any], uri: str) -> None:
    asset = create_asset(**{"collection_name": "books", **given})
    assert asset.uri == uri
    assert getattr(asset, "name", uri) == uri, "one URI under two names fails a task"
    assert sanitize_uri(urlsplit(uri)).geturl() == uri
    assert Asset(uri=uri) == asset


@pytest.mark.parametrize(
    ("given", "named"),
    [
        *[({"collection_name": name}, "collection_name must be a name") for name in (None, "", "  ", 5)],
        ({"collection_name": "a/b"}, "collection_name must hold no slash"),
        ({"db_name": "a/b"}, "db_name must hold no slash"),
        ({"db_name": ""}, "db_name must be a name"),
        *[
            ({"host": host}, "^host must be a name or an address alone")
            for host in (None, "", "http://h", "h:19530", "h/x", "root:pass@h", "{{ var.value.host }}", "h?x")
        ],
        *[({"port": port}, "port must be a whole number") for port in (0, 65536, "19530", True, None)],
        ({"cluster_id": ""}, "^cluster_id must be a name"),
    ],
)
def test_what_no_collection_can_have_is_refused_at_once(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        create_asset(**{"collection_name": "books", "host": "h", **given})
    assert "pass" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("milvus://HOST/db/c", "milvus://host:19530/db/c"),
        ("milvus://h:1/db/c/", "milvus://h:1/db/c"),
        ("milvus://h:1/d%c3%a4/%63", "milvus://h:1/d%C3%A4/c"),
    ],
)
def test_airflow_has_each_asset_of_the_scheme_written_the_one_way(written: str, uri: str) -> None:
    assert Asset(uri=written).uri == uri


@pytest.mark.parametrize(
    "written",
    [
        "milvus:///db/c",
        "milvus://h:1/c",
        "milvus://h:1/db/",
        "milvus://h:1/a/b/c",
        "milvus://h:1/db/a%2Fb",
        "milvus://h:x/db/c",
        "milvus://h:0/db/c",
        "milvus://h:1/db/c?x=1",
        "milvus://h:1/db/c#x",
        "milvus://s3cret@h:1/db/c",
        "http://h:1/db/c",
    ],
)
def test_a_uri_that_is_no_collections_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"must|milvus://host:port/database/collection|Port") as refused:
        sanitize_uri(urlsplit(written))
    assert "s3cret" not in str(refused.value)


def test_openlineage_knows_it_by_the_names_of_its_own_page() -> None:
    pytest.importorskip("openlineage.client")
    asset = create_asset("Bücher", host="::1", db_name="shop")
    dataset = convert_asset_to_openlineage(asset, None)
    assert (dataset.namespace, dataset.name) == ("milvus://[::1]:19530", "shop.Bücher")


BOOKS = Collection("h", 19530, "default", "books")
OUTLETS = {
    "own": create_asset("books", host="h"),
    "other name of its server": create_asset("books", host="milvus", port=443),
    "other collection": create_asset("films", host="h"),
    "other database": create_asset("books", host="h", db_name="shop"),
    "other system": Asset(uri="x-milvus://h:19530/default/books"),
    "no asset": "books",
}


@pytest.mark.parametrize(
    ("outlets", "own"),
    [
        (["own", "other collection", "other database", "other system", "no asset"], ["own"]),
        (["own", "other name of its server"], ["own"]),
        (["other name of its server", "other collection"], ["other name of its server"]),
        (["other collection", "other database"], []),
        ([], []),
    ],
)
def test_which_outlet_stands_for_a_collection(outlets: list[str], own: list[str]) -> None:
    assert BOOKS.among(OUTLETS[each] for each in outlets) == [OUTLETS[each] for each in own]


def test_importing_it_loads_nothing_but_pythons_own() -> None:
    """Airflow imports it as soon as a DAG file makes an asset of any scheme."""
    program = "import sys, airflow_provider_importprog.assets; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-S", "-c", program]  # without what site-packages load at each start
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__"} == {"airflow_provider_importprog"}
