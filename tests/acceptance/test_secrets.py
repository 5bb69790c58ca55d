"""Issue 9, section 5: secrets, whoever says them."""

from __future__ import annotations

import traceback
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.acceptance.helpers import Told, says
from tests.blackbox import world
from tests.blackbox.driver import TOKEN_LOGIN, TOKEN_PASSWORD, Call, Connect, Gate
from tests.blackbox.server import (
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    dead_url,
    v2_file,
    v2_job,
)

# Seen in full, percent-encoded, or as the header that carries them.
PROXY_USER, PROXY_PASSWORD = "puser", "pr0xy/Pa55-word"
PROXY_WORDS = [
    PROXY_PASSWORD,
    quote(PROXY_PASSWORD, safe=""),
    b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode(),
]
CREDENTIALS = f"{PROXY_USER}:{quote(PROXY_PASSWORD, safe='')}"


def seen_of(gate: Gate, error: BaseException | None, told: Told) -> str:
    """Everything that a gate left anywhere."""
    rows = [(one.trigger.serialize(), one.kwargs, vars(one.trigger)) for one in gate.deferred]
    left = [told.text, repr(gate.ti.pushed), repr(gate.events), repr(rows)]
    if error is not None:
        left += ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]
    return "\n".join(left)


class TestTheProxysPassword:
    @pytest.fixture(params=["nobody listens", "no such port", "no such host", "hangs up", "407", "job", "error"])
    def proxy(
        self,
        request: pytest.FixtureRequest,
        server: ScriptedServer,
        other_server: ScriptedServer,
        connect: Connect,
        monkeypatch: pytest.MonkeyPatch,
    ) -> str:
        connect({"api_version": "v2", "timeout": 2})

        def echo(asked: Asked) -> Answer:
            words = f"{asked.header('Proxy-Authorization')} {PROXY_PASSWORD}"
            if request.param == "job":
                return v2_job("Failed", reason=words, files=[v2_file(f"[{words}]", "Failed", reason=words)])
            if request.param == "error":
                return says(7, words)
            return Answer(words.encode(), 407) if request.param == "407" else Answer(how="close")

        other_server.on(f"{server.url}{V2_DESCRIBE}", echo)
        address = {
            "nobody listens": dead_url().removeprefix("http://"),
            "no such port": "127.0.0.1:99999",
            "no such host": "no-such-host.invalid:3128",
        }.get(request.param, other_server.url.removeprefix("http://"))
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://{CREDENTIALS}@{address}")
        return str(request.param)

    def test_is_nowhere(self, proxy: str, gate: Gate, told: Told) -> None:
        with pytest.raises(AirflowException) as caught:
            gate.run(outage_tolerance=0.3, timeout=1)
        seen = seen_of(gate, caught.value, told)
        assert not [word for word in PROXY_WORDS if word in seen]

    def test_is_in_no_error_of_a_hook(self, proxy: str, call: Call, told: Told) -> None:
        if proxy == "job":
            seen = repr(call.progress())
        else:
            with pytest.raises(AirflowException) as caught:
                call.progress()
            seen = "".join(traceback.format_exception(caught.value))
        seen += repr(call("test_connection")) + told.text
        assert not [word for word in PROXY_WORDS if word in seen]


KEYS = {"one": ("AKIA-access-1", "secret/key+22"), "two": ("AKIA-access-2", "other/key+333")}
SECRETS = [form for keys in KEYS.values() for key in keys for form in (key, quote(key, safe=""))]
ECHO = " ".join(SECRETS)


def failing_list(asked: Asked, token: str) -> Answer:
    return says(65535, f"denied: {ECHO} {token}")


def broken_list(asked: Asked, token: str) -> Answer:
    return Answer(f"<html>{ECHO} {token}</html>".encode(), 500)


def page(asked: Asked, token: str) -> Answer:
    return Answer(f"<html>{ECHO} {token}</html>".encode())


def odd_records(asked: Asked, token: str) -> Answer:
    return Answer({"code": 0, "data": {"records": [{"jobId": ECHO, "state": 7, "reason": token, "x": ECHO}]}})


def talking_records(asked: Asked, token: str) -> Answer:
    words = f"{ECHO} {token}"
    return Answer(
        {
            "code": 0,
            "data": {
                "records": [
                    {"jobId": job, "collectionName": words, "state": words, "progress": 40, "reason": words}
                    for job in KEYS
                ]
            },
        }
    )


LISTS = [failing_list, broken_list, page, odd_records, talking_records]


@pytest.mark.parametrize("said_by", ["describe: error", "describe: page", "describe: job", *LISTS])
def test_keys_and_token_that_the_server_says_to_gates_that_share(
    server: ScriptedServer, connect: Connect, storage: Callable[..., None], told: Told, said_by: Any
) -> None:
    connect({"api_version": "v2"})
    for name, keys in KEYS.items():
        storage(name, *keys)
    token = f"{TOKEN_LOGIN}:{TOKEN_PASSWORD}"

    def describe(asked: Asked) -> Answer:
        job_id, asked_before = asked.json["jobId"], len(server.to(V2_DESCRIBE))
        words = f"denied: {ECHO} {token}"
        if said_by == "describe: error" and asked_before in (3, 4):
            return says(65535, words)
        if said_by == "describe: page" and asked_before in (3, 4):
            return Answer(words.encode(), 500)
        if asked_before < 8:
            return v2_job(jobId=job_id)
        # A gate that waits alone knows its own keys.
        own = " ".join(form for key in KEYS[job_id] for form in (key, quote(key, safe="")))
        reason = f"denied: {own} {token}" if said_by == "describe: job" else "bad"
        return v2_job("Failed", jobId=job_id, reason=reason, files=[v2_file(state="Failed", reason=reason)])

    server.v2(describe)
    server.on(V2_LIST, lambda asked: said_by(asked, token) if callable(said_by) else world.empty(asked, []))
    policy = {"poke_interval": 0.1, "outage_tolerance": 60}
    events = world.run(*[ImportProgressTrigger(job_id=name, storage_conn_id=name, **policy) for name in KEYS])
    assert [event["verdict"] for event in events] == ["job_failed", "job_failed"]
    assert server.to(V2_LIST) or not callable(said_by)
    seen = told.text + repr(events)
    assert not [secret for secret in [*SECRETS, TOKEN_PASSWORD] if secret in seen]
