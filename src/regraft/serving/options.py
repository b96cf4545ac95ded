"""How an artifact is served."""

from __future__ import annotations

from typing import Annotated

from regraft.options import Field, options


@options
class ServeOptions:
    """Where a server listens and how much it takes at once. Every queue is bounded."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs a token."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0 takes a free one, which is stated."""

    token: str | None = None
    """Secret that every request but /health must carry (`Authorization: Bearer ...`); REGRAFT_TOKEN if not given."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Rows a forward pass."""

    max_rows: Annotated[int, Field(ge=1)] = 1024
    """Rows a request, at most."""

    max_matches: Annotated[int, Field(ge=1)] = 16_384
    """Rows that one request to /retrieve can find: those that ask times the most that are found for each."""

    max_body_bytes: Annotated[int, Field(ge=1)] = 16_000_000
    """Bytes of a request's body, at most."""

    max_text_chars: Annotated[int, Field(ge=1)] = 1_000_000
    """Characters of one text, at most."""

    max_waiting: Annotated[int, Field(ge=1)] = 16
    """Requests that wait or are being answered, at most; the next one is told to come again."""

    retry_after_s: Annotated[int, Field(ge=1)] = 1
    """Seconds after which a client that found the queue full is told to come again."""
