"""The design's connection table, field by field."""

from __future__ import annotations

import json
import logging
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import Connection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from airflow_provider_importprog import get_provider_info
from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._provider_info import CONNECTION_FIELDS, EXTRA_FIELDS
from airflow_provider_importprog.api import Address
from airflow_provider_importprog.exceptions import ImportSettingInvalid

# Airflow 2 minds an extra that is no object, and goes on.
pytestmark = pytest.mark.filterwarnings("ignore:Encountered")

FIELDS = ("conn_id", "conn_type", "host", "schema", "port", "login", "password")
LOGIN, PASSWORD = "alice-in-secret", "hush-hush-42"


def read(extra: Any = None, **fields: Any) -> ImportConnection:
    if extra is not None and not isinstance(extra, str):
        extra = json.dumps(extra)
    fields = {"host": "http://localhost:19530", "login": LOGIN, "password": PASSWORD, **fields}
    return ImportConnection.read(Connection(conn_id="milvus", **{"conn_type": "importprog", **fields}, extra=extra))


def read_uri(uri: str) -> ImportConnection:
    """Read a connection as an environment variable holds it; Airflow 3 and 2 have each their own way."""
    from_uri = getattr(Connection, "from_uri", None)
    return ImportConnection.read(
        from_uri(uri, conn_id="milvus") if from_uri else cast("Any", Connection)("milvus", uri=uri)
    )


def refusal(extra: Any = None, **fields: Any) -> str:
    with pytest.raises(ImportSettingInvalid) as raised:
        read(extra, **fields)
    sentence = str(raised.value)
    assert sentence.startswith("Connection 'milvus'")
    assert LOGIN not in sentence
    assert PASSWORD not in sentence
    return sentence


class TestHost:
    @pytest.mark.parametrize(
        ("host", "schema", "port", "url"),
        [
            pytest.param("http://localhost:19530", None, None, "http://localhost:19530", id="base URL"),
            pytest.param("https://api.cloud.zilliz.com", None, None, "https://api.cloud.zilliz.com", id="https"),
            pytest.param("localhost", None, None, "https://localhost", id="https without a scheme"),
            pytest.param("localhost", "http", None, "http://localhost", id="schema without a scheme"),
            pytest.param("localhost", " HTTP ", None, "http://localhost", id="schema in capitals"),
            pytest.param("localhost", "", 19530, "https://localhost:19530", id="port is added"),
            pytest.param("localhost:19530", "http", None, "http://localhost:19530", id="port in the host"),
            pytest.param("http://localhost", "https", 19530, "http://localhost:19530", id="the host's scheme wins"),
            pytest.param("http://localhost:19530", None, 19530, "http://localhost:19530", id="the same port twice"),
            pytest.param("http://localhost:19530/", None, None, "http://localhost:19530", id="slash at the end"),
            pytest.param("http://h/milvus/", None, 80, "http://h:80/milvus", id="base path, port put before it"),
            pytest.param("h/a/b//", None, None, "https://h/a/b", id="base path without a scheme"),
            pytest.param("HTTP://LocalHost", None, None, "http://localhost", id="capitals"),
            pytest.param("  http://h \n", None, None, "http://h", id="white space around it"),
            pytest.param("http://[::1]:19530", None, None, "http://[::1]:19530", id="IPv6"),
            pytest.param("[fe80::1]", "http", 19530, "http://[fe80::1]:19530", id="IPv6 with a port field"),
            pytest.param("10.0.0.7", "http", 19530, "http://10.0.0.7:19530", id="IPv4"),
            pytest.param("::1", "http", 19530, "http://[::1]:19530", id="IPv6 as Airflow reads it from a URI"),
        ],
    )
    def test_the_base_url_comes_of_host_schema_and_port(
        self, host: str, schema: str | None, port: int | None, url: str
    ) -> None:
        assert read(host=host, schema=schema, port=port).base_url == url

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"conn_type": "http"}, "is of type 'http', not 'importprog'"),
            ({"password": None}, "has a login and no password"),
            ({"host": None}, "has no host"),
            ({"host": " "}, "has no host"),
            ({"host": "ftp://h"}, "host 'ftp://h' is no http or https URL"),
            *[({"host": host}, "is no http or https URL")
              for host in ("http://", "http://:19530", "my host", "http://h\nx", "http://h\\x", "<host>")],
            *[({"host": host}, "host is no URL") for host in ("http://h:port", "http://h:99999", "http://[::1")],
            *[({"host": f"http://h/{end}"}, "must end before any '?' or '#'") for end in ("?a=1", "#a")],
            *[({"host": "h", "port": n}, f"port must be from 1 to 65535, not {n}") for n in (65536, -1)],
            ({"host": "h", "schema": "grpc"}, "schema must be http or https, not 'grpc'"),
            ({"host": "http://h:1", "port": 2}, "host names port 1, and port is 2. Leave one"),
        ],
    )  # fmt: skip
    def test_what_makes_no_connection_is_refused_and_named(self, fields: dict[str, Any], said: str) -> None:
        assert said in refusal(**fields)

    @pytest.mark.parametrize(
        "host",
        [f"http://{LOGIN}:{PASSWORD}@h:19530", f"{LOGIN}:{PASSWORD}@h", f"http://{PASSWORD}@h",
         *[f"http://{LOGIN}:{inside}@h" for inside in (f"{PASSWORD} x", *(f"1{c}{PASSWORD}" for c in "#/?"))]],
    )  # fmt: skip
    def test_a_host_that_holds_a_password_is_refused_without_showing_it(self, host: str) -> None:
        assert "host holds a user name or a password" in refusal(host=host)


class TestToken:
    @pytest.mark.parametrize(
        ("login", "password", "token"),
        [("root", "Milvus", "root:Milvus"), (None, "api-key", "api-key"), ("  ", " api-key ", "api-key"),
         ("root", "a:b", "root:a:b"), (None, None, None), ("", "", None)],
    )  # fmt: skip
    def test_it_is_login_and_password_or_the_password_alone(
        self, login: str | None, password: str | None, token: str | None
    ) -> None:
        assert read(login=login, password=password).token == token

    def test_no_repr_shows_it(self) -> None:
        settings = read()
        assert settings.token == f"{LOGIN}:{PASSWORD}"
        assert not any(secret in f"{settings!r}{settings}" for secret in (LOGIN, PASSWORD))

    @pytest.mark.parametrize("character", [" ", "\n", "\r\n", "\0", "\x7f", "é", "密"])
    def test_what_no_header_can_hold_is_refused_without_showing_it(self, character: str) -> None:
        assert "travel in an HTTP header" in refusal(password=f"{PASSWORD}{character}x")
        assert "travel in an HTTP header" in refusal(login=f"{LOGIN}{character}x")


class TestExtra:
    @pytest.mark.parametrize("extra", [None, "", "  ", "{}"], ids=["none", "empty", "blank", "no field"])
    def test_without_it_the_defaults_hold(self, extra: str | None) -> None:
        assert read(extra) == ImportConnection(
            conn_id="milvus",
            base_url="http://localhost:19530",
            token=f"{LOGIN}:{PASSWORD}",
            address=Address(),
            api_version="auto",
            connect_timeout=5.0,
            read_timeout=30.0,
            verify=True,
            cert=None,
            max_requests_per_second=20.0,
        )

    def test_null_and_empty_fields_are_as_good_as_none(self) -> None:
        for nothing in (None, ""):
            assert read(dict.fromkeys(EXTRA_FIELDS, nothing)) == read()

    def test_v2_addressing(self) -> None:
        settings = read({"cluster_id": " in01 ", "project_id": "p", "region_id": "r", "db_name": "sales"})
        assert settings.address == Address(cluster_id="in01", project_id="p", region_id="r", db_name="sales")
        assert settings.server == "http://localhost:19530 sales"
        assert read(password="another-one").server == read().server == "http://localhost:19530 default"

    @pytest.mark.parametrize(
        ("name", "given", "meant"),
        [
            *[("api_version", version, {"api_version": version}) for version in ("auto", "v1", "v2")],
            *[("timeout", given, {"connect_timeout": seconds, "read_timeout": seconds})
              for given, seconds in ((60, 60.0), (0.5, 0.5), ("60", 60.0), (" 1.5 ", 1.5))],
            *[("max_requests_per_second", given, {"max_requests_per_second": float(given)}) for given in (5, "0.5")],
            *[(name, given, {name: meant, "api_version": "v2" if meant and name != "verify" else "auto"})
              for name in ("verify", "idempotency_keys")
              for given, meant in ((True, True), (False, False), (" False ", False), ("TRUE", True))],
        ],
    )  # fmt: skip
    def test_a_field_may_be_of_its_type_or_a_string(self, name: str, given: Any, meant: dict[str, Any]) -> None:
        settings = read({name: given})
        assert {field: getattr(settings, field) for field in meant} == meant

    def test_v1_has_no_idempotency_keys(self) -> None:
        assert "only v2 has such keys" in refusal({"idempotency_keys": True, "api_version": "v1"})
        assert read({"idempotency_keys": False, "api_version": "v1"}).api_version == "v1"

    def test_verify_and_cert_are_paths_that_are_there(self, pem: tuple[str, str, str], tmp_path: Path) -> None:
        both, certificate, key = pem
        assert read({"verify": certificate}).verify == certificate
        assert read({"verify": str(tmp_path)}).verify == str(tmp_path)
        assert read({"cert": both}).cert == both
        assert read({"cert": [certificate, key]}).cert == (certificate, key)

    def test_what_is_no_certificate_with_its_key_is_refused(self, pem: tuple[str, str, str], tmp_path: Path) -> None:
        (tmp_path / "empty.pem").touch()
        empty = str(tmp_path / "empty.pem")
        for extra in ({"verify": empty}, {"cert": empty}, {"cert": [pem[1], pem[1]]}):
            assert "is no certificate in PEM format" in refusal(extra)

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            ("{timeout: 60}", "extra is no JSON"),
            *[(extra, "extra must be a JSON object") for extra in ("[1]", "null", '"x"')],
            *[({"timeout": value}, f"extra 'timeout' must be a number above 0, not {value!r}")
              for value in ("soon", 0, -1, True, [5], float("nan"), float("inf"), 10**400)],
            *[({"max_requests_per_second": value}, "'max_requests_per_second' must be") for value in (0, "x")],
            ({"api_version": "v3"}, "extra 'api_version' must be one of auto, v1, v2, not 'v3'"),
            ({"api_version": 2}, "'api_version' must be a string, not 2"),
            ({"cluster_id": 5}, "'cluster_id' must be a string, not 5"),
            ({"db_name": ["a"]}, "'db_name' must be a string"),
            *[({name: "x"}, "'project_id' and 'region_id' go together") for name in ("project_id", "region_id")],
            *[({"idempotency_keys": value}, f"'idempotency_keys' must be true or false, not {value!r}")
              for value in ("yes", 1)],
            ({"verify": "yes"}, "'verify' must be the path of a file that is on"),
            ({"verify": 1}, "'verify' must be true, false, or the path"),
            ({"cert": "/no/such.pem"}, "'cert' must be the path of a file that is on"),
            *[({"cert": value}, "'cert' must be the path of a certificate, or")
              for value in (["/no/such.pem"], [1, 2], True)],
        ],
        ids=lambda value: str(value)[:80],
    )  # fmt: skip
    def test_a_wrong_field_is_refused_and_named(self, extra: Any, said: str) -> None:
        assert said in refusal(extra)

    @pytest.mark.parametrize(
        "given",
        [
            pytest.param("ftp://console.example/{job_id}", id="ftp"),
            pytest.param("javascript:alert(1)", id="javascript"),
            pytest.param("console.example/{job_id}", id="no scheme"),
            pytest.param("https:///jobs", id="no host"),
            pytest.param("https://[console/jobs", id="no URL"),
            pytest.param("https://console.example/{jobId}", id="another name"),
            pytest.param("https://console.example/a b", id="a blank"),
            pytest.param(f"https://{LOGIN}:{PASSWORD}@console.example/", id="user and password"),
            pytest.param(f"https://console.example/?key={LOGIN}:{PASSWORD}", id="token"),
            pytest.param(5, id="a number"),
        ],
    )
    def test_a_console_url_that_is_no_page_or_shows_a_secret_is_refused(self, given: Any) -> None:
        assert "extra 'console_url'" in refusal({"console_url": given})

    @pytest.mark.parametrize(
        ("given", "cluster_id", "collection_name", "page"),
        [
            ("", None, "books", None),
            ("https://c.example/{job_id}", None, None, "https://c.example/4%2F7%3F"),
            ("HTTPS://c.example/", None, None, "HTTPS://c.example/"),
            (
                "https://{cluster_id}.example/{collection_name}",
                None,
                "ü {job_id}",
                "https://in01.example/%C3%BC%20%7Bjob_id%7D",
            ),
            ("https://c.example/{cluster_id}{cluster_id}", "in02", None, "https://c.example/in02in02"),
            ("https://c.example/{collection_name}", None, None, None),
        ],
    )
    def test_the_page_of_a_job(
        self, given: str, cluster_id: str | None, collection_name: str | None, page: str | None
    ) -> None:
        settings = read({"console_url": given, "cluster_id": "in01"})
        assert settings.job_page("4/7?", cluster_id, collection_name) == page

    def test_an_extra_without_a_bottom_is_no_json(self) -> None:
        connection = Connection(conn_id="milvus", conn_type="importprog", host="h")
        # Airflow 2 would stumble over it by itself.
        bottomless = SimpleNamespace(**{name: getattr(connection, name) for name in FIELDS}, extra="[" * 100_000)
        with pytest.raises(ImportSettingInvalid, match=r"^Connection 'milvus': extra is no JSON"):
            ImportConnection.read(cast("Any", bottomless))

    def test_unknown_fields_are_warned_of_by_name_and_not_by_value(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        read({"time_out": PASSWORD, "cluster": "x", "timeout": 5})
        (record,) = caplog.records
        assert record.getMessage() == (
            "Connection 'milvus': extra fields cluster, time_out are not known and do nothing."
        )


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """The paths of a certificate with its key, of the certificate alone, and of the key alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    certificate_pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    folder = tmp_path_factory.mktemp("pem")
    paths = []
    for file_name, content in (("both", certificate_pem + key_pem), ("cert", certificate_pem), ("key", key_pem)):
        (folder / file_name).write_bytes(content)
        paths.append(str(folder / file_name))
    return paths[0], paths[1], paths[2]


class TestTls:
    def test_it_verifies_unless_the_connection_turns_it_off(self) -> None:
        strict, lenient = read().tls_context(), read({"verify": False}).tls_context()
        assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert (lenient.verify_mode, lenient.check_hostname) == (ssl.CERT_NONE, False)

    def test_it_trusts_the_usual_authorities_or_only_the_one_that_is_named(self, pem: tuple[str, str, str]) -> None:
        assert read().tls_context().cert_store_stats()["x509"] > 50
        assert read({"verify": pem[1]}).tls_context().cert_store_stats()["x509"] == 1

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_it_heeds_the_environment_as_requests_does(
        self, variable: str, pem: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.setenv(variable, pem[1])
        assert read().tls_context().cert_store_stats()["x509"] == 1


class TestUri:
    def test_a_uri_holds_only_strings(self) -> None:
        settings = read_uri(
            "importprog://root:p%40ss%3Aw@localhost:19530/http"
            "?timeout=60&verify=false&api_version=v2&max_requests_per_second=5&cluster_id=in01"
        )
        fields: dict[str, Any] = {
            "timeout": 60, "verify": False, "api_version": "v2", "max_requests_per_second": 5, "cluster_id": "in01",
        }  # fmt: skip
        assert settings == read(fields, login="root", password="p@ss:w")

    @pytest.mark.parametrize(
        ("uri", "url", "token"),
        [
            (":key@http%3A%2F%2F127.0.0.1%3A19530", "http://127.0.0.1:19530", "key"),
            (":key@api.cloud.zilliz.com", "https://api.cloud.zilliz.com", "key"),
            ("localhost:19530/http", "http://localhost:19530", None),
            (":key@[::1]:19530/http", "http://[::1]:19530", "key"),
        ],
    )
    def test_a_uri_may_name(self, uri: str, url: str, token: str | None) -> None:
        settings = read_uri(f"importprog://{uri}")
        assert (settings.base_url, settings.token) == (url, token)

    def test_extra_as_one_json_parameter_keeps_its_types(self) -> None:
        settings = read_uri("importprog://:key@h/http?__extra__=%7B%22timeout%22%3A+60%2C+%22verify%22%3A+false%7D")
        assert (settings.read_timeout, settings.verify) == (60.0, False)


class TestFields:
    def test_form_parser_and_placeholders_come_of_one_table(self) -> None:
        (kind,) = get_provider_info()["connection-types"]
        assert list(kind["conn-fields"]) == list(EXTRA_FIELDS)
        assert set(kind["ui-field-behaviour"]["placeholders"]) == {
            each.name for each in CONNECTION_FIELDS if each.placeholder
        }
        assert all(each.label and each.description for each in EXTRA_FIELDS.values())
