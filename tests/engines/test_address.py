"""What ``--gpubench-base-url`` may say."""

from __future__ import annotations

import pytest

from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.engines.http_probe import base_url_error
from pytest_gpubench.engines.lifecycle import attach
from pytest_gpubench.model.failures import GpubenchError

WRONG = [
    "",
    " ",
    "h",
    "h:8000",
    "localhost:8000/v1",
    "file:///etc/hostname",
    "ftp://h",
    "ws://h",
    "http:",
    "http://",
]
WRONG += [
    "http:///v1",
    "http://:80",
    "http://h:",
    "http://h:0",
    "http://h:65536",
    "http://h:x",
    "http://h:-1",
]
WRONG += [
    "http://[::1",
    "http://a b",
    "http://u@h",
    "http://u:se5cret@h",
    "http://@h",
    "http://h?x",
    "http://h#x",
]
WRONG += ["http://h\n", "http:\\\\h", "javascript:1"]


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h:8000/v1",
        "http://127.0.0.1:1/",
        "http://[::1]:8000",
        "HTTP://h:80/prefix/v1",
    ],
)
def test_addresses(url: str) -> None:
    assert base_url_error(url) is None


@pytest.mark.parametrize("url", WRONG)
def test_what_is_no_address(url: str) -> None:
    wrong = base_url_error(url)
    assert wrong
    assert "se5cret" not in wrong
    with pytest.raises(GpubenchError, match="--gpubench-base-url"):
        attach(url, VLLM)
