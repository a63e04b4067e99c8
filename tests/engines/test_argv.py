from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.dialects.command_line import PORT, flag, record_env
from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.dialects.vllm.dialect import SHORT_JSON
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap, freeze
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology

API_SERVER = ("python", "-m", "vllm.entrypoints.openai.api_server")


def spec(**changes: object) -> ServerSpec:
    values: dict[str, object] = {
        "framework": "vllm",
        "model": "org/model",
        "hardware": "h100",
        "topology": Topology(),
        "serve": FrozenMap(),
    }
    return ServerSpec(**(values | changes))  # type: ignore[arg-type]


def test_the_model_is_positional_only_after_serve() -> None:
    assert VLLM.render(spec(), ("vllm", "serve"), served_name="m").argv[:3] == (
        "vllm",
        "serve",
        "org/model",
    )
    assert VLLM.render(spec(), API_SERVER, served_name="m").argv[:5] == (
        *API_SERVER,
        "--model",
        "org/model",
    )


def test_our_own_flags_follow_the_recipe_and_extra_args_come_last() -> None:
    words = VLLM.render(
        spec(revision="abc", extra_args=("--x", "1")), ("vllm", "serve"), served_name="m-1"
    ).argv
    assert words[3:5] == ("--revision", "abc")
    assert words[-8:] == (
        "--host",
        "127.0.0.1",
        "--port",
        PORT,
        "--served-model-name",
        "m-1",
        "--x",
        "1",
    )
    assert PORT not in VLLM.render(spec(), ("vllm", "serve"), served_name="m").filled(
        {PORT: "8000"}
    )
    assert "8000" in VLLM.render(spec(), ("vllm", "serve"), served_name="m").filled({PORT: "8000"})


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (Topology(tp=8), ["--tensor-parallel-size", "8"]),
        (Topology(tp=8, ep=8), ["--tensor-parallel-size", "8", "--enable-expert-parallel"]),
        (
            Topology(tp=8, ep=8, dp_attn=True),
            [
                "--tensor-parallel-size",
                "1",
                "--data-parallel-size",
                "8",
                "--enable-expert-parallel",
            ],
        ),
        (Topology(tp=4, pp=2), ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "2"]),
        (
            Topology(tp=2, pcp=2, dcp=2),
            [
                "--tensor-parallel-size",
                "2",
                "--prefill-context-parallel-size",
                "2",
                "--decode-context-parallel-size",
                "2",
            ],
        ),
    ],
)
def test_parallelism(topology: Topology, expected: list[str]) -> None:
    words = list(VLLM.render(spec(topology=topology), ("vllm", "serve"), served_name="m").argv)
    assert words[3 : words.index("--host")] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, ["--a-b"]),
        (False, ["--no-a-b"]),
        (None, []),
        (128, ["--a-b", "128"]),
        (0.9, ["--a-b", "0.9"]),
        ("auto", ["--a-b", "auto"]),
        (["x", 2], ["--a-b", "x", "2"]),
        ({"k": {"n": [1, True]}}, ["--a-b", '{"k": {"n": [1, true]}}']),
    ],
)
def test_values_of_serve(value: object, expected: list[str]) -> None:
    assert flag("a-b", freeze(value)) == expected
    assert flag("a_b", freeze(value)) == expected


def test_a_list_of_maps_is_refused() -> None:
    with pytest.raises(GpubenchError, match=r"serve\.x is a list of lists or maps"):
        flag("x", freeze([{"a": 1}]))


def test_speculative_config_is_one_json_value_with_the_options_last() -> None:
    draft = Speculative(
        "eagle3",
        3,
        "org/draft",
        attention_backend="FLASH_ATTN",
        options=FrozenMap({"draft_tensor_parallel_size": 1}),
    )
    words = VLLM.render(spec(speculative=draft), ("vllm", "serve"), served_name="m").argv
    assert json.loads(words[words.index("--speculative-config") + 1]) == {
        "method": "eagle3",
        "model": "org/draft",
        "num_speculative_tokens": 3,
        "attention_backend": "FLASH_ATTN",
        "draft_tensor_parallel_size": 1,
    }


@pytest.mark.parametrize(
    "name", [*VLLM.flags.ours, "served_model_name", "no-enable-expert-parallel"]
)
def test_a_recipe_cannot_set_our_flags(name: str) -> None:
    with pytest.raises(GpubenchError, match=name):
        VLLM.render(spec(serve=FrozenMap({name: 1})), ("vllm", "serve"), served_name="m")
    with pytest.raises(GpubenchError, match=name):
        VLLM.render(spec(extra_args=(f"--{name}=1",)), ("vllm", "serve"), served_name="m")


def test_short_forms_in_extra_args_are_known_too() -> None:
    with pytest.raises(GpubenchError, match="-tp"):
        VLLM.render(spec(extra_args=("-tp", "4")), ("vllm", "serve"), served_name="m")
    assert (
        VLLM.render(spec(extra_args=("-O3",)), ("vllm", "serve"), served_name="m").argv[-1] == "-O3"
    )


def test_environment_of_a_plan_and_of_a_launch() -> None:
    env = FrozenMap(
        {
            "A": 1,
            "B": {"from": "HOST_B", "default": "x"},
            "C": {"from": "HOST_C"},
            "GONE": None,
            "VLLM_LOGGING_LEVEL": "DEBUG",
        }
    )
    command = VLLM.render(spec(env=env), ("vllm", "serve"), served_name="m", cache_dir="/cache")
    printed = command.printable_env()
    assert printed["A"] == "1"
    assert printed["B"] == "${HOST_B:-x}"
    assert printed["C"] == "${HOST_C}"
    assert printed["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert printed["HF_HUB_OFFLINE"] == printed["TRANSFORMERS_OFFLINE"] == "1"
    assert printed["HF_HUB_CACHE"] == "/cache"
    assert command.unset == ("GONE",)
    assert command.resolve_env({"HOST_C": "c"})["B"] == "x"
    assert command.resolve_env({"HOST_C": "c", "HOST_B": "b"})["B"] == "b"
    with pytest.raises(GpubenchError, match=r"env\.C reads HOST_C from the host, which is not set"):
        command.resolve_env({})


def test_the_key_is_nowhere_in_a_command_line() -> None:
    command = VLLM.render(spec(), ("vllm", "serve"), served_name="m")
    assert "VLLM_API_KEY" not in command.printable_env()
    assert "--api-key" not in command.argv
    with pytest.raises(GpubenchError, match="VLLM_API_KEY"):
        VLLM.render(spec(env=FrozenMap({"VLLM_API_KEY": "k"})), ("vllm", "serve"), served_name="m")


def test_an_online_server_keeps_its_network() -> None:
    assert (
        "HF_HUB_OFFLINE"
        not in VLLM.render(
            spec(), ("vllm", "serve"), served_name="m", offline=False
        ).printable_env()
    )


def test_a_recorded_environment_has_no_secrets() -> None:
    recorded = record_env(
        {"HF_TOKEN": "hf_x", "VLLM_API_KEY": "k", "VLLM_X": "1", "HOME": "/h", "MINE": "2"},
        ["MINE"],
        VLLM.recorded_env,
    )
    assert recorded == {
        "HF_TOKEN": "<removed>",
        "VLLM_API_KEY": "<removed>",
        "VLLM_X": "1",
        "MINE": "2",
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=4))
def test_a_map_is_the_same_map_after_the_command_line(value: dict[str, object]) -> None:
    words = flag("hf-overrides", freeze(value))
    assert len(words) == 2
    assert json.loads(words[1]) == value


def test_no_secret_in_a_plan_or_a_record() -> None:
    env = FrozenMap(
        {
            "X_SETTING": {"from": "AWS_SECRET_ACCESS_KEY", "default": "def-ault"},
            "MY_PAT": {"from": "PLAIN", "default": "oth-er"},
            "HF_TOKEN": "lit-eral",
            "HF_ENDPOINT": "https://user:pass-word@host",
        }
    )
    command = VLLM.render(spec(env=env), ("vllm", "serve"), served_name="m")
    printed = str(command.printable_env())
    assert "AWS_SECRET_ACCESS_KEY" in printed
    environment = {"AWS_SECRET_ACCESS_KEY": "from-host", "PLAIN": "from-plain"}
    environment |= command.resolve_env(environment)
    recorded = str(record_env(environment, tuple(env)))
    for secret in ("def-ault", "oth-er", "lit-eral", "pass-word", "from-host", "from-plain"):
        assert secret not in printed + recorded


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kernel-config.enable_flashinfer_autotune", False, "false"),
        ("kernel_config.moe_backend", "triton", "triton"),
        ("cc.pass_config.fuse_rope_kvcache", True, "true"),
        ("compilation-config.cudagraph_capture_sizes", (1, 2), "[1, 2]"),
    ],
)
def test_a_dotted_flag_keeps_its_inner_spelling_and_has_a_value(
    name: str, value: Any, words: str
) -> None:
    head = {"cc": "compilation-config"}.get(name.split(".")[0], name.split(".")[0])
    inner = name.partition(".")[2]
    assert flag(name, value, short=SHORT_JSON) == [f"--{head.replace('_', '-')}.{inner}", words]
