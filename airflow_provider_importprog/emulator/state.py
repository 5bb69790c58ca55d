"""What the emulator and its server share: the settings, and counts of what was requested."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from airflow_provider_importprog.emulator.faults import Faults
from airflow_provider_importprog.emulator.profile import ServerProfile


@dataclass
class ServerState:
    """Changed from the emulator's thread and from the server's; each value is replaced or counted as a whole."""

    profile: ServerProfile
    faults: Faults
    host: str = "127.0.0.1"
    """The address that the server is bound to."""
    token: str | None = field(default=None, repr=False)
    """What clients must send as a bearer token; None lets everyone in."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests to the API by path, refused ones too."""
    create_requests: int = 0
    """Create requests that could be read."""
    refresh_loads: list[str] = field(default_factory=list)
    """Collections that were to be refreshed, one for each request, as ``collection`` or ``database.collection``."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Collections by their alias, both as ``name`` or ``database.name``."""
    jobs_by_key: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """Job ids by database, collection and idempotency key."""
