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
        ],
    )
    def test_the_base_url_comes_of_host_schema_and_port(
        self, host: str, schema: str | None, port: int | None, url: str
    ) -> None:
        assert read(host=host, schema=schema, port=port).base_url == url

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            pytest.param({"host": None}, "has no host", id="none"),
            pytest.param({"host": " "}, "has no host", id="blank"),
            pytest.param({"host": "ftp://h"}, "host 'ftp://h' is no http or https URL", id="another scheme"),
            pytest.param({"host": "http://"}, "is no http or https URL", id="no name"),
            pytest.param({"host": "http://:19530"}, "is no http or https URL", id="only a port"),
            pytest.param({"host": "my host"}, "is no http or https URL", id="white space inside"),
            pytest.param({"host": "http://h\nx"}, "is no http or https URL", id="a new line inside"),
            pytest.param({"host": "http://h\\x"}, "is no http or https URL", id="a backslash"),
            pytest.param({"host": "<host>"}, "is no http or https URL", id="a placeholder"),
            pytest.param({"host": "http://h:port"}, "host is no URL", id="port no number"),
            pytest.param({"host": "http://h:99999"}, "host is no URL", id="port too high"),
            pytest.param({"host": "http://[::1"}, "host is no URL", id="broken IPv6"),
            pytest.param({"host": "http://h/?a=1"}, "must end before any '?' or '#'", id="query"),
            pytest.param({"host": "http://h/#a"}, "must end before any '?' or '#'", id="fragment"),
            pytest.param({"host": "h", "port": 65536}, "port must be from 1 to 65535, not 65536", id="port field"),
            pytest.param({"host": "h", "port": -1}, "port must be from 1 to 65535, not -1", id="port negative"),
            pytest.param({"host": "h", "schema": "grpc"}, "schema must be http or https, not 'grpc'", id="schema"),
            pytest.param(
                {"host": "http://h:1", "port": 2}, "host names port 1, and port is 2. Leave one", id="two ports"
            ),
        ],
    )
    def test_what_is_no_url_is_refused_and_named(self, fields: dict[str, Any], said: str) -> None:
        assert said in refusal(**fields)

    @pytest.mark.parametrize(
        "host",
        [
            f"http://{LOGIN}:{PASSWORD}@h:19530",
            f"{LOGIN}:{PASSWORD}@h",
            f"http://{PASSWORD}@h",
            f"http://{LOGIN}:{PASSWORD} x@h",
            f"http://{LOGIN}:1#{PASSWORD}@h",
            f"http://{LOGIN}:1/{PASSWORD}@h",
            f"http://{LOGIN}:1?{PASSWORD}@h",
        ],
    )
    def test_a_host_that_holds_a_password_is_refused_without_showing_it(self, host: str) -> None:
        assert "host holds a user name or a password" in refusal(host=host)


class TestToken:
    @pytest.mark.parametrize(
        ("login", "password", "token"),
        [
            ("root", "Milvus", "root:Milvus"),
            (None, "api-key", "api-key"),
            ("", " api-key ", "api-key"),
            ("  ", "api-key", "api-key"),
            ("root", "a:b", "root:a:b"),
            (None, None, None),
            ("", "", None),
        ],
    )
    def test_it_is_login_and_password_or_the_password_alone(
        self, login: str | None, password: str | None, token: str | None
    ) -> None:
        assert read(login=login, password=password).token == token

    def test_a_login_without_a_password_is_refused(self) -> None:
        assert "has a login and no password" in refusal(password=None)

    @pytest.mark.parametrize("character", [" ", "\n", "\r\n", "\0", "\x7f", "é", "密"])
    def test_what_no_header_can_hold_is_refused_without_showing_it(self, character: str) -> None:
        assert "travel in an HTTP header" in refusal(password=f"{PASSWORD}{character}x")
        assert "travel in an HTTP header" in refusal(login=f"{LOGIN}{character}x")


def test_no_repr_shows_a_token() -> None:
    settings = read()
    assert settings.token == f"{LOGIN}:{PASSWORD}"
    assert not any(secret in f"{settings!r}{settings}" for secret in (LOGIN, PASSWORD))


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
        names = ("cluster_id", "project_id", "region_id", "db_name", "api_version", "timeout", "verify", "cert")
        for nothing in (None, ""):
            assert read(dict.fromkeys((*names, "max_requests_per_second", "idempotency_keys"), nothing)) == read()

    def test_v2_addressing(self) -> None:
        settings = read({"cluster_id": " in01 ", "project_id": "p", "region_id": "r", "db_name": "sales"})
        assert settings.address == Address(cluster_id="in01", project_id="p", region_id="r", db_name="sales")

    @pytest.mark.parametrize("version", ["auto", "v1", "v2"])
    def test_api_versions(self, version: str) -> None:
        assert read({"api_version": version}).api_version == version

    @pytest.mark.parametrize(("given", "seconds"), [(60, 60.0), (0.5, 0.5), ("60", 60.0), (" 1.5 ", 1.5)])
    def test_a_timeout_is_for_connecting_and_reading(self, given: Any, seconds: float) -> None:
        settings = read({"timeout": given})
        assert (settings.connect_timeout, settings.read_timeout) == (seconds, seconds)

    @pytest.mark.parametrize(("given", "rate"), [(5, 5.0), ("0.5", 0.5)])
    def test_requests_per_second(self, given: Any, rate: float) -> None:
        assert read({"max_requests_per_second": given}).max_requests_per_second == rate

    @pytest.mark.parametrize(
        ("given", "verify"),
        [(True, True), (False, False), ("true", True), ("false", False), (" False ", False), ("TRUE", True)],
    )
    def test_verify_is_a_bool_or_its_word(self, given: Any, verify: bool) -> None:
        assert read({"verify": given}).verify is verify

    @pytest.mark.parametrize(
        ("given", "keys"),
        [(True, True), (False, False), ("true", True), ("false", False), (" False ", False), ("TRUE", True)],
    )
    def test_idempotency_keys_are_a_bool_or_its_word_and_take_v2(self, given: Any, keys: bool) -> None:
        settings = read({"idempotency_keys": given})
        assert (settings.idempotency_keys, settings.api_version) == (keys, "v2" if keys else "auto")

    def test_v1_has_no_idempotency_keys(self) -> None:
        assert "only v2 has such keys" in refusal({"idempotency_keys": True, "api_version": "v1"})
        assert read({"idempotency_keys": False, "api_version": "v1"}).api_version == "v1"

    def test_verify_and_cert_are_paths_that_are_there(self, pem: tuple[str, str, str], tmp_path: Path) -> None:
        both, certificate, key = pem
        assert read({"verify": certificate}).verify == certificate
        assert read({"verify": str(tmp_path)}).verify == str(tmp_path)
        assert read({"cert": both}).cert == both
        assert read({"cert": [certificate, key]}).cert == (certificate, key)

    @pytest.mark.parametrize("name", ["verify", "cert"])
    def test_a_file_that_holds_no_certificate_is_refused(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "empty.pem").touch()
        assert "is no certificate in PEM format" in refusal({name: str(tmp_path / "empty.pem")})

    def test_a_certificate_with_another_ones_key_is_refused(self, pem: tuple[str, str, str]) -> None:
        assert "is no certificate in PEM format" in refusal({"cert": [pem[1], pem[1]]})

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            pytest.param("{timeout: 60}", "extra is no JSON", id="no JSON"),
            pytest.param("[1]", "extra must be a JSON object", id="a list"),
            pytest.param("null", "extra must be a JSON object", id="null"),
            pytest.param('"x"', "extra must be a JSON object", id="a string"),
            pytest.param({"timeout": "soon"}, "extra 'timeout' must be a number above 0, not 'soon'", id="soon"),
            pytest.param({"timeout": 0}, "'timeout' must be a number above 0, not 0", id="timeout 0"),
            pytest.param({"timeout": -1}, "'timeout' must be a number above 0, not -1", id="timeout -1"),
            pytest.param({"timeout": True}, "'timeout' must be a number above 0, not True", id="timeout true"),
            pytest.param({"timeout": [5]}, "'timeout' must be a number above 0", id="timeout a list"),
            pytest.param('{"timeout": NaN}', "'timeout' must be a number above 0, not nan", id="timeout nan"),
            pytest.param('{"timeout": Infinity}', "'timeout' must be a number above 0", id="timeout infinite"),
            pytest.param({"timeout": 10**400}, "'timeout' must be a number above 0", id="timeout huge"),
            pytest.param({"max_requests_per_second": 0}, "'max_requests_per_second' must be", id="rate 0"),
            pytest.param({"max_requests_per_second": "x"}, "'max_requests_per_second' must be", id="rate x"),
            pytest.param(
                {"api_version": "v3"}, "extra 'api_version' must be one of auto, v1, v2, not 'v3'", id="version"
            ),
            pytest.param({"api_version": 2}, "'api_version' must be a string, not 2", id="version a number"),
            pytest.param({"cluster_id": 5}, "'cluster_id' must be a string, not 5", id="cluster a number"),
            pytest.param({"db_name": ["a"]}, "'db_name' must be a string", id="database a list"),
            pytest.param({"project_id": "p"}, "'project_id' and 'region_id' go together", id="project alone"),
            pytest.param({"region_id": "r"}, "'project_id' and 'region_id' go together", id="region alone"),
            pytest.param({"verify": "yes"}, "'verify' must be the path of a file that is on", id="verify yes"),
            pytest.param({"idempotency_keys": "yes"}, "'idempotency_keys' must be true or false", id="keys yes"),
            pytest.param({"idempotency_keys": 1}, "'idempotency_keys' must be true or false, not 1", id="keys 1"),
            pytest.param({"verify": 1}, "'verify' must be true, false, or the path", id="verify 1"),
            pytest.param({"cert": "/no/such.pem"}, "'cert' must be the path of a file that is on", id="cert gone"),
            pytest.param({"cert": ["/no/such.pem"]}, "'cert' must be the path of a certificate, or", id="one"),
            pytest.param({"cert": [1, 2]}, "'cert' must be the path of a certificate, or", id="cert numbers"),
            pytest.param({"cert": True}, "'cert' must be the path of a certificate, or", id="cert true"),
        ],
    )
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


class TestType:
    def test_another_type_of_connection_is_refused(self) -> None:
        assert "is of type 'http', not 'importprog'" in refusal(conn_type="http")


class TestUri:
    def test_a_uri_holds_only_strings(self) -> None:
        settings = read_uri(
            "importprog://root:p%40ss%3Aw@localhost:19530/http"
            "?timeout=60&verify=false&api_version=v2&max_requests_per_second=5&cluster_id=in01"
        )
        assert settings == ImportConnection(
            conn_id="milvus",
            base_url="http://localhost:19530",
            token="root:p@ss:w",
            address=Address(cluster_id="in01"),
            api_version="v2",
            connect_timeout=60.0,
            read_timeout=60.0,
            verify=False,
            cert=None,
            max_requests_per_second=5.0,
        )

    @pytest.mark.parametrize(
        ("uri", "url", "token"),
        [
            ("importprog://:key@http%3A%2F%2F127.0.0.1%3A19530", "http://127.0.0.1:19530", "key"),
            ("importprog://:key@api.cloud.zilliz.com", "https://api.cloud.zilliz.com", "key"),
            ("importprog://localhost:19530/http", "http://localhost:19530", None),
            ("importprog://:key@[::1]:19530/http", "http://[::1]:19530", "key"),
        ],
        ids=["a whole URL as host", "an API key", "no token", "IPv6"],
    )
    def test_a_uri_may_name(self, uri: str, url: str, token: str | None) -> None:
        settings = read_uri(uri)
        assert (settings.base_url, settings.token) == (url, token)

    @pytest.mark.parametrize("host", ["::1", "fe80::1"])
    def test_a_bare_ipv6_address_gets_its_brackets(self, host: str) -> None:
        assert read(host=host, schema="http", port=19530).base_url == f"http://[{host}]:19530"

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


@pytest.mark.parametrize(("extra", "server"), [({}, "default"), ({"db_name": "sales"}, "sales")])
def test_a_server_is_its_url_and_its_database(extra: dict[str, str], server: str) -> None:
    assert read(extra).server == f"http://localhost:19530 {server}"
    assert read(extra, password="another-one").server == read(extra).server
