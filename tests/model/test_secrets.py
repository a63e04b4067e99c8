"""What is hidden, and what is not."""

from __future__ import annotations

import pytest

from pytest_gpubench.model.secrets import (
    HIDDEN,
    Secrets,
    hide_in,
    hide_named,
    is_secret,
    is_secret_name,
    without_shapes,
)

SECRET = """HF_TOKEN VLLM_API_KEY APIKEY apiKey GITHUB_PAT PAT MY_PAT AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID DB_PASS PASSWORD
pgPassword PGPASSWORD BASIC_AUTH db-password auth_token DB_PWD MYSQL_PWD CREDENTIALS HFTOKEN SECRETKEY accesskey SESSION_COOKIE"""
PLAIN = """PATH PYTHONPATH LD_LIBRARY_PATH PASSTHROUGH PWD OLDPWD TOKENIZERS_PARALLELISM VLLM_MAX_TOKENS_PER_EXPERT HF_TOKEN_PATH
KEYBOARD AUTHOR PATTERN COMPASS max-num-batched-tokens eos_token num-speculative-tokens HOME SSH_AUTH_SOCK PATCH CUDA_PATH"""


@pytest.mark.parametrize("name", SECRET.split())
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN.split())
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_a_switch_is_no_secret_whatever_its_name() -> None:
    assert not any(
        is_secret("HF_HUB_DISABLE_IMPLICIT_TOKEN", value)
        for value in ("1", "true", "", "0.5", "AUTO")
    )
    assert is_secret("TOKEN", "12345678")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pa@ss@host/x", f"https://{HIDDEN}@host/x"),
        ("--u=postgres://u:p@h:5 http://h/p@q", f"--u=postgres://{HIDDEN}@h:5 http://h/p@q"),
        ("Authorization: Bearer abcdefgh12", f"Authorization: Bearer {HIDDEN}"),
        ("hf_ABCDEFGHIJKLMNOPQR.", f"{HIDDEN}."),
        ('{"token": "tok, tok"}', f'{{"token": "{HIDDEN}"}}'),
        (r"--x={\"db-password\": \"abcdefg\"}", rf"--x={{\"db-password\": \"{HIDDEN}\"}}"),
        ("env MY_API_KEY=abcdefg python", f"env MY_API_KEY={HIDDEN} python"),
        ("http://h/x?a=1&api_key=abcdefg&b=2", f"http://h/x?a=1&api_key={HIDDEN}&b=2"),
        ("{'secret': 'abcdefg'} --token=abcdefg", f"{{'secret': '{HIDDEN}'}} --token={HIDDEN}"),
        (
            "num_key_value_heads=81234567 max_tokens=1000000",
            "num_key_value_heads=81234567 max_tokens=1000000",
        ),
        ("eos_token='<|end|>' \"token\": 128001", "eos_token='<|end|>' \"token\": 128001"),
        ("mail me@host or Bearer of news", "mail me@host or Bearer of news"),
    ],
)
def test_shapes(text: str, shown: str) -> None:
    assert without_shapes(text) == shown


def test_copies_are_hidden_under_every_name() -> None:
    environment = {
        "GITHUB_PAT": "patpatpat",
        "OTHER": "zedzedzed",
        "URL": "https://u:pwpwpwpw@h",
        "PATH": "/bin/patience",
    }
    record = {
        "argv": [
            "vllm",
            "--hf-overrides",
            '{"x": "patpatpat"}',
            "--endpoint",
            "http://a:b@c",
            "say pwpwpwpw",
        ],
        "env": {"X_SETTING": "patpatpat", "MY_TOKEN": "literal-one", "PATH": "/bin/patience"},
        "spec": {
            "env": {"MY_PAT": {"from": "OTHER", "default": "d-e-f-a-u-l-t"}},
            "serve": {"o": {"api_key": "inner-one"}},
        },
        "failure": {"evidence": ["it said zedzedzed, literal-one, inner-one, d-e-f-a-u-l-t"]},
        "key": "not-a-secret",
        "gate": {"key": {"model": "m"}},
    }
    shown = str(hide_in(record, environment))
    for secret in (
        "patpatpat",
        "zedzedzed",
        "pwpwpwpw",
        "literal-one",
        "inner-one",
        "d-e-f-a-u-l-t",
        "a:b@",
    ):
        assert secret not in shown
    for kept in ("/bin/patience", "not-a-secret", "{'model': 'm'}", "'from': 'OTHER'"):
        assert kept in shown


def test_short_values_take_nothing_with_them() -> None:
    assert Secrets.of({"A_KEY": "abc", "B_KEY": "abcdef"}).values == ("abcdef",)
    assert hide_named("env.A_KEY", "abc") == HIDDEN
