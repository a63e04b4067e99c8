"""Files of official recipes: fetched once by ``gpubench fetch --sources``, then read from this
user's cache, without a network."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from pytest_gpubench.host.files import writing
from pytest_gpubench.host.hub.local import user_cache_dir
from pytest_gpubench.model.failures import GpubenchError

LARGEST = 4 << 20
"""Bytes of one file; the largest has some 40 kB."""
_TIMEOUT_S = 30.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def source_folder() -> Path:
    """Where the files lie, as in a checkout of their project."""
    return user_cache_dir() / "gpubench" / "sources" / "official-recipes"


def fetch_source(relative: str, origin: str, folder: Path | None = None) -> Path:
    """Fetch one file into the cache, in place of an older one.

    Args:
        relative: its path in the project.
        origin: address of the project's root.

    Raises:
        GpubenchError: if it cannot be fetched, is too large, or cannot be kept.
    """
    url = f"{origin.rstrip('/')}/{relative}"
    data = _body(url)
    path = (folder or source_folder()) / relative
    with writing(path, what="the official recipe", remedy="set XDG_CACHE_HOME") as file:
        file.write(data)
    return path


def _body(url: str) -> bytes:
    _refuse_plain(url)
    try:
        with (
            httpx2.Client(
                timeout=_TIMEOUT_S,
                follow_redirects=True,
                event_hooks={"request": [lambda request: _refuse_plain(str(request.url))]},
            ) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise GpubenchError(
                    f"{url} answered {answer.status_code}: see whether the official recipe is "
                    "still there"
                )
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > LARGEST:
                    raise GpubenchError(
                        f"{url} has more than {LARGEST >> 20} MiB, which no recipe has"
                    )
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise GpubenchError(
            f"{url} could not be fetched: {why}; give the file instead: gpubench compare-source "
            "--official FOLDER"
        ) from None
    return bytes(data)


def _refuse_plain(url: str) -> None:
    """Nothing is fetched in the open but from this machine."""
    parts = urlsplit(url)
    safe = parts.scheme == "https" and parts.hostname
    if not safe and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise GpubenchError(f"{url} is no https address")
