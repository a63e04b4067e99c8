"""Why a model cannot be had: what hub client, network, disk or cache said, as a failure with cause,
class and remedy.

No token is ever shown.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pytest_gpubench.host.hub.local import Incomplete
from pytest_gpubench.model.failures import Failure, FailureClass
from pytest_gpubench.model.secrets import without_shapes

_HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet"}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_STALE = {errno.ESTALE, errno.EIO}
_RETRIED_STATUS = {408, 425, 429}
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )\S+")


def redact(text: str) -> str:
    """The text without anything that is or looks like an access token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            text = text.replace(token, "***")
    return without_shapes(_TOKEN.sub("***", text))


def download_failure(
    error: BaseException, model: str, revision: str, cache: str, endpoint: str
) -> Failure:
    """Name what went wrong in a download.

    Args:
        error: what huggingface_hub raised, or an OSError.
        endpoint: address of the hub, for the remedy.
    """
    chain = list(_chain(error))
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    status = next((code for link in chain if (code := _status(link)) is not None), None)
    number = next(
        (link.errno for link in chain if isinstance(link, OSError) and isinstance(link.errno, int)),
        None,
    )
    known: tuple[tuple[object, str, FailureClass, str, str], ...] = (
        ("HFValidationError" in names, "invalid-model-name", "recipe",
         "neither a repository (org/name) nor a folder", "Correct the recipe's model."),
        ("GatedRepoError" in names, "gated-repository", "recipe",
         "the repository is gated, and the account at hand has no access",
         f"Ask for access at {endpoint}/{model}, then set HF_TOKEN to that account's token."),
        ("EntryNotFoundError" in names, "file-not-found", "recipe",
         "the repository has no such file at that revision", "Correct the recipe's dataset-file."),
        ("RevisionNotFoundError" in names, "revision-not-found", "recipe",
         f"the repository has no revision {revision}", "Correct the recipe's revision."),
        (names & {"RepositoryNotFoundError", "DisabledRepoError"}, "repository-not-found", "recipe",
         f"there is no such repository at {endpoint}, or it is private",
         "Correct the recipe's model; for a private one set HF_TOKEN."),
        (status in (401, 403), "hub-refused", "recipe",
         f"{endpoint} refused access (HTTP {status})", "Check HF_TOKEN and its permissions."),
        (number in _DISK_FULL, "disk-full", "infrastructure",
         f"no space left in {cache}", "Free space, or choose another --gpubench-cache-dir."),
        (number in _READ_ONLY, "cache-unwritable", "infrastructure",
         f"{cache} cannot be written", "Choose another --gpubench-cache-dir."),
        (number in _STALE, "stale-file-handle", "infrastructure",
         f"{cache} failed to read or write (errno {number}), as a network file system does under "
         "several writers", "Run again, or put the cache on a local disk."),
        (status == 429, "hub-rate-limit", "infrastructure",
         f"{endpoint} limits our rate (HTTP 429)", "Set HF_TOKEN, or wait and run again."),
        (status is not None, "hub-unavailable", "infrastructure",
         f"{endpoint} answered HTTP {status}", "Run again later."),
        (True, "download-failed", "infrastructure", f"the download from {endpoint} broke off",
         "Check the network and run gpubench fetch again."),
    )  # fmt: skip
    _, cause, whose, words, remedy = next(row for row in known if row[0])
    return Failure(cause, whose, f"{without_shapes(model)}: {words}", _evidence(error), remedy)


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: lost connections, busy servers, stale file handles,
    short reads."""
    for link in _chain(error):
        status = _status(link)
        if status is not None:
            return status in _RETRIED_STATUS or status >= 500
        number = link.errno if isinstance(link, OSError) else None
        if number in _DISK_FULL or number in _READ_ONLY:
            return False
        if (
            number in _STALE
            or isinstance(link, ConnectionResetError | TimeoutError)
            or "Consistency check failed" in str(link)
        ):
            return True
        if type(link).__module__.partition(".")[0] in _HTTP_LIBRARIES:
            return True
    return False


def folder_failure(missing: Incomplete) -> Failure:
    """A folder that is named as a model and is none."""
    return Failure(
        "model-folder-incomplete" if missing.started else "model-folder-missing",
        "recipe",
        f"the model folder {missing.model} cannot be served: {missing.reason}",
        remedy="Correct the recipe's model, or complete the folder.",
    )


def offline_failure(missing: Incomplete, revision: str | None, cache: Path) -> Failure:
    """Weights that are not here, where nothing may be fetched."""
    at = f" at revision {revision}" if revision else ""
    return Failure(
        "weights-missing",
        "infrastructure",
        f"{missing.model}{at} is not complete in {cache}, and HF_HUB_OFFLINE=1 forbids "
        f"the download: {missing.reason}",
        remedy="Run gpubench fetch where the network is allowed, then run again.",
    )


def still_incomplete(missing: Incomplete, revision: str, endpoint: str) -> Failure:
    """A repository that is whole and yet no model."""
    return Failure(
        "repository-incomplete",
        "recipe",
        f"{missing.model} at revision {revision} was downloaded whole from {endpoint} "
        f"and still cannot be served: {missing.reason}",
        remedy="Choose another revision or repository.",
    )


def lock_unusable(repo: str, path: Path, reason: str) -> Failure:
    """A download lock that cannot even be waited for."""
    return Failure(
        "lock-unusable",
        "infrastructure",
        f"the download lock of {repo} cannot be taken at {path}: {reason}",
        remedy="Set TMPDIR to a local folder of your own that can be written.",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _evidence(error: BaseException) -> tuple[str, ...]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (redact(f"{type(error).__name__}: {' '.join(lines)}"[:500]),)
