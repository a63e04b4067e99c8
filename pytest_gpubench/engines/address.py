"""The address of a server that runs already: what ``--gpubench-base-url`` may say."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_ODD = re.compile(r"[\s\x00-\x1f\x7f\\]")
EXAMPLE = "write http://HOST:PORT, with or without /v1"


def base_url_error(text: str) -> str | None:
    """Why a text is not an address of a server, as a clause that does not quote it; None if it is one.

    A password in it is not repeated: it would reach terminals and logs.
    """
    if not text.strip() or _ODD.search(text):
        return f"is not an address: it is empty or holds blanks, backslashes or control characters: {EXAMPLE}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is not an address ({str(error).lower()}): {EXAMPLE}"
    if parts.scheme not in ("http", "https"):
        scheme = f"begins with {parts.scheme}:" if parts.scheme else "names no scheme"
        return f"is not an address of a server: it {scheme}; it must be http or https: {EXAMPLE}"
    if "@" in parts.netloc:
        return f"holds a user or a password; give the server's key in OPENAI_API_KEY, and {EXAMPLE}"
    if not host:
        return f"is not an address: it names no host: {EXAMPLE}"
    if port == 0 or parts.netloc.endswith(":"):
        return f"is not an address: it has no usable port: {EXAMPLE}"
    if parts.query or parts.fragment or "?" in text or "#" in text:
        return f"holds a query or a fragment, which no path can follow: {EXAMPLE}"
    return None
