"""What of a server's and a library's words nobody may read."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import proxy_secrets, redactor_for, unreachable
from airflow_provider_importprog._redaction import Redactor, Secrets
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState, Request
from airflow_provider_importprog.api.errors import ImportApiError
from airflow_provider_importprog.api.protocol import read
from tests.unit.helpers import raw

LOGIN, PASSWORD = "alice-in-secret", "hush-hush-42"
ASKED = Request("GET", "/v1/x?jobId=7", job_id="7")
KEYS = Secrets.of(("secret/key+1", None), ("AKIAACCESS",))


def settings(login: str | None = LOGIN, password: str | None = PASSWORD) -> ImportConnection:
    return ImportConnection.read(
        Connection(conn_id="milvus", conn_type="importprog", host="http://h", login=login, password=password)
    )


@pytest.mark.parametrize(
    ("login", "password", "words", "shown"),
    [
        (LOGIN, PASSWORD, f"bad {LOGIN}:{PASSWORD}, I mean {PASSWORD}", "bad ***, I mean ***"),
        (None, "key-12", "<key-12>", "<***>"),
        ("root", "abcde", "abcde root:abcde abcde", "abcde *** abcde"),  # too short to be told from chance
        (None, None, "abc", "abc"),
        (None, 'pa"ss/w', json.dumps('pa"ss/w') + quote('pa"ss/w', safe=""), '"***"***'),
        *[
            (None, PASSWORD, f"somebody cut {PASSWORD[:6]}{mark}", f"somebody cut ***{mark}")
            for mark in ("", "…", "...")
        ],
        (None, PASSWORD, f"cut {PASSWORD[:-1]}", "cut ***"),
        (None, PASSWORD, f"{PASSWORD[:6]}", "***"),
        (None, PASSWORD, f"{PASSWORD[:6]} not cut", f"{PASSWORD[:6]} not cut"),
        (None, PASSWORD, f"{PASSWORD}, too short: {PASSWORD[:5]}", f"***, too short: {PASSWORD[:5]}"),
    ],
)
def test_a_token_is_redacted_in_each_form(login: str | None, password: str | None, words: str, shown: str) -> None:
    assert redactor_for(settings(login, password))(words) == shown


def as_json(words: str) -> bytes:
    return json.dumps({"code": 7, "message": words}).encode()


ECHOES: dict[str, Callable[[str], tuple[bytes, int]]] = {
    "plain": lambda token: (as_json(token), 200),
    "Go's escapes": lambda token: (as_json(token).replace(b"&", b"\\u0026").replace(b"/", b"\\/"), 200),
    "all escaped": lambda token: (b'{"code": 7, "message": "%s"}' % escaped(token), 200),
    "UTF-16": lambda token: (json.dumps({"code": 7, "message": token}).encode("utf-16"), 200),
    "a page": lambda token: (f"<html>{token}</html>".encode(), 400),
    "a page of a server that is down": lambda token: (f"<html>{token}</html>".encode(), 503),
    "other JSON": lambda token: (json.dumps({"error": token}).encode(), 400),
    "other JSON, all escaped": lambda token: (b'{"error": "%s"}' % escaped(token), 400),
    "a message cut within it": lambda token: (as_json("w" * 490 + token), 200),
    "a page cut within it": lambda token: (b"w" * 190 + token.encode(), 200),
}


def escaped(words: str) -> bytes:
    return "".join(f"\\u{ord(one):04x}" for one in words).encode()


@pytest.mark.parametrize("token", ["p&ss<w/rd1", "a\\b\"c'd-12", "hushhush\\42"])
@pytest.mark.parametrize("echo", ECHOES)
def test_it_does_not_show_however_a_server_repeats_it(echo: str, token: str) -> None:
    redactor = redactor_for(settings(None, token))
    with pytest.raises(ImportApiError) as raised:
        read(ASKED, raw(*ECHOES[echo](token)), redactor)
    shown = redactor(str(raised.value))
    assert not any(form[:6] in shown for form in (token, json.dumps(token)[1:-1]))


def test_a_job_is_redacted_and_its_names_only_of_what_they_cannot_hold_by_chance() -> None:
    redactor = redactor_for(settings())
    token = f"{LOGIN}:{PASSWORD}"
    file = ImportFile(f"s3://{token}@b/{PASSWORD}.json", 1, ImportState.FAILED, 0.0, error_message=f"no {PASSWORD}")
    fine = ImportFile("fine.json", 1, ImportState.FAILED, 0.0, error_message="no row")
    job = ImportJob("7", f"c {token}", ImportState.FAILED, 3.0, error_message=f"bad {PASSWORD}", files=(file, fine))
    redacted = redactor.job(job)
    assert (redacted.collection_name, redacted.error_message) == ("c ***", "bad ***")
    assert redacted.files[0].file_name == f"s3://***@b/{PASSWORD}.json"
    assert redacted.files[0].error_message == "no ***"
    assert redactor.job(redacted) is redacted
    assert redacted.files[1] is fine


def test_secrets_are_added_for_as_long_as_any_gate_needs_them() -> None:
    redactor = Redactor()
    words = "denied: AKIAACCESS, secret%2Fkey%2B1"
    with redactor.adding(KEYS):
        with redactor.adding(KEYS):
            assert redactor(words) == "denied: ***, ***"
        assert redactor(words) == "denied: ***, ***"
    assert redactor(words) == words
    assert repr(KEYS) == "Secrets(2)"


@pytest.mark.parametrize(
    "said",
    ["http://bob:p%40ssword@proxy:1", "bob:p@ssword", "p@ssword", f"Basic {b64encode(b'bob:p@ssword').decode()}"],
)
def test_the_credentials_of_a_proxy_are_redacted(said: str) -> None:
    shown = Redactor(proxy_secrets("http://bob:p%40ssword@proxy:1"))(said)
    assert "***" in shown
    assert not any(secret in shown for secret in ("ssword", "Ym9i"))


def test_a_proxys_short_password_is_redacted_with_its_user_name() -> None:
    assert Redactor(proxy_secrets("http://bob:p%21@proxy:1"))("bob:p%21, bob:p!") == "***, ***"
    assert proxy_secrets("http://proxy:1") == proxy_secrets(None) == Secrets()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        *[(OSError(f"407, url='http://{credentials}@proxy:8080/'"), "407, url='http://***@proxy:8080/'.")
          for credentials in ("bob:pw", "bob:p%21%2Ass", "bob")],
        (OSError("w" * 490 + PASSWORD), "w" * 490 + "***."),  # before it is cut
        (OSError("x" + "w" * 500), "OSError: x" + "w" * 499 + "."),
        (OSError("outer", ConnectionRefusedError("half \ud800 pair")), "ConnectionRefusedError: half ? pair."),
        (OSError("HTTPConnection(host='h', port=1): no route"), "OSError: no route."),
    ],
)  # fmt: skip
def test_a_librarys_words_are_those_of_its_innermost_error_without_secrets(error: Any, shown: str) -> None:
    assert str(unreachable(settings(), redactor_for(settings()), error)).endswith(shown)
