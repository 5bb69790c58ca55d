"""Takes secrets out of what a server or a library says, before anybody reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote

from airflow_provider_importprog.api.model import ImportFile, ImportJob

_REDACTED = "***"
# A shorter secret is part of other words by chance.
_SHORTEST = 6


@dataclass(frozen=True)
class Secrets:
    """What a server was told and nobody else may read.

    :param whole: redacted everywhere.
    :param parts: redacted in messages alone: the name of a file or a collection may hold them by chance, such as a
        password that is a word, or the name of an Azure storage account.
    """

    whole: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, whole: Iterable[str | None], parts: Iterable[str | None] = ()) -> Secrets:
        """Return those that are set and long enough to be told from chance."""
        kept = [tuple(one for one in each if one and len(one) >= _SHORTEST) for each in (whole, parts)]
        return cls(*kept)

    def __repr__(self) -> str:
        return f"Secrets({len(self.whole) + len(self.parts)})"


class Redactor:
    """Takes secrets out of words, in each form in which they may stand there.

    A client has one, and whatever a server or a library said goes through it.
    """

    def __init__(self, secrets: Secrets = Secrets()) -> None:
        self._whole: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._name_forms: tuple[str, ...] = ()
        self._forms: tuple[str, ...] = ()
        self.add(secrets)

    def __call__(self, words: str, /) -> str:
        """Return a message without the secrets."""
        return _redact(words, self._forms)

    def job(self, job: ImportJob, /) -> ImportJob:
        """Return an import job without the secrets, should the server have repeated them."""
        name = _redact(job.collection_name, self._name_forms)
        error = job.error_message and self(job.error_message)
        files = tuple([self._file(file) for file in job.files])
        # A job may have thousands of files, and this runs at every poll: only what changed is made anew.
        if name == job.collection_name and error == job.error_message and files == job.files:
            return job
        return replace(job, collection_name=name, error_message=error, files=files)

    def add(self, secrets: Secrets) -> None:
        """Redact these too, for as long as this redactor lives."""
        self._whole.update(secrets.whole)
        self._parts.update(secrets.parts)
        self._refresh()

    @contextmanager
    def adding(self, secrets: Secrets) -> Iterator[None]:
        """Redact these too meanwhile. Many may add the same ones."""
        if secrets == Secrets():
            yield
            return
        self.add(secrets)
        try:
            yield
        finally:
            self._whole.subtract(secrets.whole)
            self._parts.subtract(secrets.parts)
            self._refresh()

    def _file(self, file: ImportFile) -> ImportFile:
        name = _redact(file.file_name, self._name_forms)
        error = file.error_message and self(file.error_message)
        if name == file.file_name and error == file.error_message:
            return file
        return replace(file, file_name=name, error_message=error)

    def _refresh(self) -> None:
        self._whole, self._parts = +self._whole, +self._parts
        self._name_forms = _forms_of(self._whole)
        self._forms = _forms_of({*self._whole, *self._parts})


def _forms_of(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return how secrets may stand in what was said: as they are, as JSON escapes them, and as a URL does."""
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    # One may be part of another, which would then be found no more.
    return tuple(sorted(forms, key=len, reverse=True))


def _redact(words: str, forms: Iterable[str]) -> str:
    for form in forms:
        if form[:_SHORTEST] not in words:
            continue
        words = words.replace(form, _REDACTED)
        words = _without_cut_off(words, form)
    return words


def _without_cut_off(words: str, form: str) -> str:
    """Return words that do not end within a secret: a server, a proxy or a library may have cut a long text there."""
    for mark in ("…", "...", ""):
        body = words[: len(words) - len(mark)] if words.endswith(mark) else None
        if body is None:
            continue
        for end in range(min(len(form) - 1, len(body)), _SHORTEST - 1, -1):
            if body.endswith(form[:end]):
                return f"{body[:-end]}{_REDACTED}{mark}"
    return words
