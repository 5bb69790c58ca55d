"""Whether the files of an import job are those that were asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def same_files(entries: Iterable[Sequence[str]], names: Iterable[str]) -> bool:
    """Say whether a job's files, as the server names them, are the ones that were asked for.

    A server puts a set of files in brackets, and may name a file by a longer path (its bucket before it, or from
    the root) or a shorter one (of a URL, only the path), or the files of a folder.
    """
    wanted = [_paths(" ".join(entry)) for entry in entries]
    by_ending: dict[str, set[int]] = {}
    for index, ours in enumerate(wanted):
        by_ending.setdefault(ours[-1][-1] if ours and ours[-1] else "", set()).add(index)
    found: set[int] = set()
    for name in names:
        theirs = _paths(name.strip().removeprefix("[").removesuffix("]"))
        likely = {index for part in (theirs[-1] if theirs else ()) for index in by_ending.get(part, ())}
        hits = {index for index in likely if _covers(wanted[index], theirs)}
        if not hits:
            return False
        found |= hits
    return len(found) == len(wanted)


def _paths(words: str) -> list[list[str]]:
    """Return the parts of each path; a space or a comma in a name only makes more paths of it, on either side."""
    return [
        [part for part in re.sub(r"^\w+://", "", path).split("/") if part not in ("", ".")]
        for path in re.split(r"[\s,]+", words.strip())
    ]


def _covers(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> bool:
    """Say whether an entry means these files: one by one, or all of them as those of one folder."""
    if len(ours) == 1:
        ours = [ours[0]] * len(theirs)
    return len(ours) == len(theirs) and all(_leads_to(*pair) for pair in zip(ours, theirs, strict=True))


def _leads_to(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Say whether a path, as far as it is told, is that of this file or of a folder that the file is in."""
    return any(
        shared and list(ours[-shared:]) == list(theirs[end - shared : end])
        for end in range(1, len(theirs) + 1)
        for shared in (min(end, len(ours)),)
    )
