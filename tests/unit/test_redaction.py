"""What of a server's and a library's words nobody may read."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import proxy_secrets, redactor_for, unreachable
from airflow_provider_importprog._redaction import Redactor, Secrets
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState, Request, Response
from airflow_provider_importprog.api.errors import ImportApiError
from airflow_provider_importprog.api.protocol import read
from tests.unit.helpers import raw, said

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
        (None, "key-12345", "<key-12345>", "<***>"),
        ("root", "abc", "abc root:abc abc", "abc *** abc"),  # too short to be told from chance
        (None, None, "abc", "abc"),
        (None, 'pa"ss/w', json.dumps('pa"ss/w') + quote('pa"ss/w', safe=""), '"***"***'),
        (None, PASSWORD, f"cut {PASSWORD[:9]}", "cut ***"),
        (None, PASSWORD, f"cut {PASSWORD[:6]}…", "cut ***…"),
        (None, PASSWORD, f"cut {PASSWORD[:6]}...", "cut ***..."),
        (None, PASSWORD, f"{PASSWORD[:6]} not cut", f"{PASSWORD[:6]} not cut"),
    ],
)
def test_a_token_is_redacted_in_each_form(login: str | None, password: str | None, words: str, shown: str) -> None:
    assert redactor_for(settings(login, password))(words) == shown


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(raw(b"<html>hushhush\\42</html>", 400), id="a page with the token"),
        pytest.param(raw(b"<html>hushhush\\42</html>", 503), id="a page of a server that is down"),
        pytest.param(raw(b'{"error": "hushhush\\\\42"}', 400), id="other JSON with the token"),
        pytest.param(said(1100, "w" * 490 + "hushhush\\42"), id="a message cut within the token"),
        pytest.param(raw(b"w" * 190 + b"hushhush\\42"), id="a page cut within the token"),
    ],
)
def test_it_does_not_show_where_words_are_cut_or_quoted(response: Response) -> None:
    redactor = redactor_for(settings(None, "hushhush\\42"))
    with pytest.raises(ImportApiError) as raised:
        read(ASKED, response, redactor)
    assert "hushhush" not in redactor(str(raised.value))


def test_a_job_is_redacted_and_its_names_only_of_what_they_cannot_hold_by_chance() -> None:
    redactor = redactor_for(settings())
    token = f"{LOGIN}:{PASSWORD}"
    file = ImportFile(f"s3://{token}@b/{PASSWORD}.json", 1, ImportState.FAILED, 0.0, error_message=f"no {PASSWORD}")
    job = ImportJob("7", f"c {token}", ImportState.FAILED, 3.0, error_message=f"bad {PASSWORD}", files=(file,))
    redacted = redactor.job(job)
    assert (redacted.collection_name, redacted.error_message) == ("c ***", "bad ***")
    assert redacted.files[0].file_name == f"s3://***@b/{PASSWORD}.json"
    assert redacted.files[0].error_message == "no ***"
    assert redactor.job(redacted) is redacted


def test_secrets_are_added_for_as_long_as_any_gate_needs_them() -> None:
    redactor = Redactor()
    words = "denied: AKIAACCESS, secret%2Fkey%2B1"
    with redactor.adding(KEYS):
        with redactor.adding(KEYS):
            assert redactor(words) == "denied: ***, ***"
        assert redactor(words) == "denied: ***, ***"
    assert redactor(words) == words
    assert "secret" not in repr(KEYS)


@pytest.mark.parametrize(
    "shown", ["http://bob:p%40ssword@proxy:1", "bob:p@ssword", "p@ssword", "Basic Ym9iOnBAc3N3b3Jk"]
)
def test_the_credentials_of_a_proxy_are_redacted(shown: str) -> None:
    redactor = Redactor(proxy_secrets("http://bob:p%40ssword@proxy:1"))
    assert "***" in redactor(shown)
    assert not any(secret in redactor(shown) for secret in ("ssword", "Ym9i"))
    assert proxy_secrets("http://proxy:1") == proxy_secrets(None) == Secrets()


@pytest.mark.parametrize("credentials", ["bob:pw", "bob:p%21%2Ass", "bob"])
def test_a_library_shows_no_credentials_of_a_url(credentials: str) -> None:
    error: Any = OSError(f"407, url='http://{credentials}@proxy:8080/'")
    assert "'http://***@proxy:8080/'" in str(unreachable(settings(), Redactor(), error))


def test_a_librarys_words_are_redacted_before_they_are_cut() -> None:
    error = OSError("w" * 490 + PASSWORD)
    assert PASSWORD[:6] not in str(unreachable(settings(), redactor_for(settings()), error))
