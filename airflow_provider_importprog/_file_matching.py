"""Whether the files of an import job are proved to be those that were asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from urllib.parse import unquote

#: A path as its parts.
_Path = tuple[str, ...]
#: A file, or the set of files that makes up its columns.
_Entry = tuple[_Path, ...]

_URL = re.compile(r"(\w[\w+.-]*)://([^/]*)(.*)", re.DOTALL)
# Hosts on which the bucket is the first part of the path. On others it is in the host's name, or not known.
_BUCKET_IN_PATH = re.compile(r"s3[.-][\w.-]*amazonaws\.com.*|storage\.googleapis\.com|.*\.blob\.core\.[\w.]+")


class Same(Enum):
    """How sure it is that a job's files are the ones that were asked for."""

    NO = "no"
    MAYBE = "maybe"
    PROVED = "proved"


def same_files(entries: Iterable[Sequence[str]], names: Iterable[str]) -> Same:
    """Say whether a job's files, as the server names them, are the ones that were asked for.

    Proved is it where each file's whole path is the one that was asked for, or is longer at its front: a bucket, or
    a root. Scheme, bucket, query and percent-encoding do not count, nor does the order of files. A bare name, or the
    files of a folder that was asked for, prove nothing, because other imports have such files too.
    """
    entries = list(entries)
    wanted = [tuple(sorted(_path(path) for path in entry)) for entry in entries]
    # A server may leave out scheme and bucket of a URL, and not its query.
    if any("://" in path for entry in entries for path in entry):
        names = [name.partition("?")[0] for name in names]
    shown = [_path(name.strip().removeprefix("[").removesuffix("]")) for name in names]
    if _proved(wanted, shown):
        return Same.PROVED
    return Same.MAYBE if _possible(wanted, shown) else Same.NO


def _path(written: str) -> _Path:
    """Return the parts of a path; of a URL, of what is behind its bucket."""
    if url := _URL.fullmatch(written.strip()):
        scheme, host, written = url.groups()
        if scheme.startswith("http") and _BUCKET_IN_PATH.fullmatch(host):
            written = written.lstrip("/").partition("/")[2]
        written = written.partition("?")[0]
    return tuple(part for part in unquote(written.strip()).split("/") if part not in ("", "."))


def _words(path: _Path) -> list[_Path]:
    """Return the paths that a name may list: a space or a comma is between two files, or in a name."""
    return [tuple(word.split("/")) for word in re.split(r"[\s,]+", "/".join(path)) if word]


def _proved(wanted: Sequence[_Entry], shown: Sequence[_Path]) -> bool:
    """Say whether each entry has a name of its own that proves it."""
    left = Counter(wanted)
    sets = [entry for entry in left if len(entry) > 1]
    for name in shown:
        # The longest end first: what proves x/1.parquet proves 1.parquet too.
        ends: list[_Entry] = [(name[start:],) for start in range(len(name)) if len(_words(name[:start])) < 2]
        found = next((entry for entry in ends if left[entry]), None) or next(
            (entry for entry in sets if left[entry] and _lists(name, entry)), None
        )
        if found is None:
            return False
        left[found] -= 1
    return not any(left.values())


def _lists(name: _Path, entry: _Entry) -> bool:
    """Say whether a name lists the files of a set, in any order."""
    left = list(entry)
    for path in _words(name):
        ends = [end for end in left if end and path[-len(end) :] == end]
        if not ends:
            return False
        left.remove(max(ends, key=len))
    return not left


def _possible(wanted: Sequence[_Entry], shown: Sequence[_Path]) -> bool:
    """Say whether each name may be one of the entries, and each entry has one.

    A name may be shorter than what was asked for, or lie in a folder that was, or not be shown at all.
    """
    ours = [[word for path in entry for word in _words(path)] for entry in wanted]
    by_end: dict[str, set[int]] = {}
    for index, words in enumerate(ours):
        for word in words:
            by_end.setdefault(word[-1], set()).add(index)
    found: set[int] = set()
    for name in set(shown):
        theirs = _words(name)
        likely = {index for word in theirs for part in word for index in by_end.get(part, ())}
        hits = {index for index in likely if _may_be(ours[index], theirs)} if theirs else set(range(len(ours)))
        if not hits:
            return False
        found |= hits
    return len(found) == len(ours)


def _may_be(ours: Sequence[_Path], theirs: Sequence[_Path]) -> bool:
    return all(any(_share_end(one, other) for other in theirs) for one in ours) and all(
        any(_share_end(one, other) for one in ours) for other in theirs
    )


def _share_end(ours: _Path, theirs: _Path) -> bool:
    """Say whether a path, as far as it is told, is that of this file or of a folder that the file is in."""
    return any(
        ours[-shared:] == theirs[end - shared : end]
        for end in range(1, len(theirs) + 1)
        if (shared := min(end, len(ours)))
    )
