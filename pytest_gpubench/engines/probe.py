"""The few HTTP questions that a server is asked outside a measurement; never through a proxy."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Literal, TypeAlias

Identity: TypeAlias = Literal["waiting", "unhealthy", "ready", "foreign"]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_MAX_ANSWER = 64 * 2**20


def get(url: str, api_key: str | None = None, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a GET; status 0 with an empty body if there was no HTTP answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})  # noqa: S310  # ours or the user's
    try:
        with _OPENER.open(request, timeout=timeout) as answer:
            return int(answer.status), bytes(answer.read(_MAX_ANSWER))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except (OSError, http.client.HTTPException, ValueError):
        return 0, b""


def get_json(url: str, api_key: str | None = None, timeout: float = 5.0) -> tuple[int, Any]:
    """Like `get`, with the parsed body, or None where it is not JSON."""
    status, body = get(url, api_key, timeout)
    try:
        return status, json.loads(body) if body else None
    except ValueError:
        return status, None


def models(url: str, api_key: str | None, timeout: float = 5.0) -> tuple[int, dict[str, dict[str, Any]]]:
    """Status and the entries of ``/v1/models`` by name."""
    status, answer = get_json(f"{url}/v1/models", api_key, timeout)
    entries = answer.get("data") if isinstance(answer, dict) else None
    return status, {str(entry["id"]): entry for entry in entries or () if isinstance(entry, dict) and "id" in entry}


def identity(url: str, api_key: str, served_name: str, timeout: float = 2.0) -> Identity:
    """Whether our own server answers: healthy, accepts our key, lists our name; ``foreign`` if somebody else answers there."""
    health, _ = get(f"{url}/health", api_key, timeout)
    if health != 200:
        return "unhealthy" if health else "waiting"
    status, served = models(url, api_key, timeout)
    if status == 200:
        return "ready" if served_name in served else "foreign"
    return "foreign" if status in (401, 403, 404) else "waiting"
