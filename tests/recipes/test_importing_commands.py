"""A command line as a recipe: the plan of what is printed starts the same server, and what it
cannot say is named."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gpubench.commands.importing_recipes import checked
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.recipes.importing.foreign_server import row_of, server_keys, topology_of
from pytest_gpubench.recipes.importing.imported import Imported, Wishes, model_prefix, text_of
from pytest_gpubench.recipes.importing.makers import recipe_of_server
from pytest_gpubench.recipes.importing.shell_text import server_in_text, server_in_words


def imported(line: str, **wishes: Any) -> Imported:
    """The recipe of a command line, checked against its own plan."""
    server = server_in_words(shlex.split(line))
    (recipe,) = checked([recipe_of_server(server, Wishes(**{"runner": "h100", **wishes}))], "x")
    return recipe


def test_a_command_line_becomes_a_recipe() -> None:
    line = (
        "VLLM_A=1 B='x y' vllm serve org/Model-7B-FP8 --revision abc -tp 8 -ep --port 8000 --max-model-len "
        "4096 --no-enable-prefix-caching --gpu-memory-utilization 0.90 --cc '{\"mode\": 3}' -O3 "
        "--sizes 1 2 4 --attention_config.backend FLASHINFER --dtype=auto --max-num-seqs=2 --x true "
        '--speculative-config \'{"method":"eagle3","model":"o/d","num_speculative_tokens":3}\''
    )
    recipe = imported(line)
    assert recipe.name == "model7b-fp8-h100-vllm-mtp"
    assert recipe.lost == ()
    assert recipe.body == {
        "model": "org/Model-7B-FP8",
        "revision": "abc",
        "model-prefix": "model7b",
        "precision": "fp8",
        "framework": "vllm",
        "runner": "h100",
        "multinode": False,
        "serve": {
            "max-model-len": 4096,
            "enable-prefix-caching": False,
            "gpu-memory-utilization": 0.9,
            "compilation-config": {"mode": 3},
            "sizes": [1, 2, 4],
            "attention-config.backend": "FLASHINFER",
            "dtype": "auto",
            "max-num-seqs": 2,
            "x": "true",
            "extra-args": ["-O3"],
        },
        "speculative": {"method": "eagle3", "model": "o/d", "num-speculative-tokens": 3},
        "env": {"VLLM_A": 1, "B": "x y"},
        "scenarios": {
            "fixed-seq-len": [
                {
                    "isl": 1024,
                    "osl": 1024,
                    "search-space": [{"tp": 8, "ep": 8, "spec-decoding": "mtp", "conc-list": [64]}],
                }
            ]
        },
    }


def test_the_text_is_a_recipe_file_with_its_losses_as_comments() -> None:
    recipe = imported("vllm serve org/m --max-model-len 512 --uds x", isl=128, osl=32, concs=(1, 8))
    text = text_of([recipe], "a command line")
    assert text == (
        "# Made by gpubench import of a command line.\n\n"
        "# precision bf16 is read from the model's name\n"
        "# Not carried over:\n"
        "#   --uds: the plugin talks plain HTTP to 127.0.0.1\n"
        "m-bf16-h100-vllm:\n"
        "  model: org/m\n"
        "  model-prefix: m\n"
        "  precision: bf16\n"
        "  framework: vllm\n"
        "  runner: h100\n"
        "  multinode: false\n"
        "  serve:\n"
        "    max-model-len: 512\n"
        "  scenarios:\n"
        "    fixed-seq-len:\n"
        "    - isl: 128\n"
        "      osl: 32\n"
        "      search-space:\n"
        "      - {tp: 1, conc-list: [1, 8]}\n"
    )


def test_a_command_line_of_sglang() -> None:
    recipe = imported(
        "python3 -m sglang.launch_server --model-path o/m --tp 8 --dp 8 --ep 8 --enable-dp-attention "
        "--context-length 4096 --host 0.0.0.0 --disable-radix-cache --speculative-algorithm EAGLE3 "
        "--speculative-draft-model-path o/d --speculative-num-steps 3 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 4"
    )
    assert recipe.lost == ()
    assert recipe.body["speculative"] == {
        "method": "eagle3",
        "model": "o/d",
        "num-speculative-tokens": 3,
    }
    (lengths,) = recipe.body["scenarios"]["fixed-seq-len"]
    (row,) = lengths["search-space"]
    assert {"tp": 8, "ep": 8, "dp-attn": True}.items() <= row.items()


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("--uds /x", "--uds: the plugin talks plain HTTP"),
        ("--config f.yaml", "--config: write the file's flags"),
        ("--hf-token hf_secretsecretsecretsecret", "--hf-token: a command line can be read"),
        ("--my-password hunter22", "--my-password: a command line can be read"),
        ("-ep", "--enable-expert-parallel: the source says True, the recipe nothing"),
        ("-tp 2 stray", "'stray': a word that belongs to no flag"),
        ("--speculative-config x", "the draft: --speculative-config is no JSON object"),
        ('--speculative-config \'{"method": "mtp"}\'', "the draft: it does not say its num-spec"),
        (
            '--speculative-config \'{"method": "mtp", "num_speculative_tokens": 1, "odd_key": 2}\'',
            "the draft's odd-key: a recipe's `speculative` has no such key",
        ),
        (
            '--speculative-config \'{"method": "mtp", "num_speculative_tokens": "many"}\'',
            "the draft: num-speculative-tokens must be an integer",
        ),
        ("--x 'password=hunter22'", "--x: holds a value of password"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(words: str, lost: str) -> None:
    recipe = imported(f"vllm serve o/m --max-model-len 4096 {words}")
    assert any(lost in one for one in recipe.lost), recipe.lost
    text = text_of([recipe], "x")
    assert "hunter22" not in text
    assert "secretsecret" not in text


@pytest.mark.parametrize(
    ("env", "lost"),
    [
        ("VLLM_API_KEY=abcdefgh", "env VLLM_API_KEY: "),
        ("HF_TOKEN=abcdefgh", "env HF_TOKEN: a command line can be read"),
        ("CUDA_VISIBLE_DEVICES=0", "env CUDA_VISIBLE_DEVICES: this variable is not a recipe's"),
    ],
)
def test_variables_that_are_no_recipes_are_named(env: str, lost: str) -> None:
    recipe = imported(f"{env} vllm serve o/m --max-model-len 4096")
    assert [one[: len(lost)] for one in recipe.lost] == [lost]
    assert "abcdefgh" not in text_of([recipe], "x")


def test_a_flag_that_is_given_twice() -> None:
    recipe = imported("vllm serve o/m --max-num-seqs 1 --a x --a y --b 1 --b 1 --max-num-seqs 2")
    assert recipe.body["serve"] == {
        "max-num-seqs": 2,
        "b": 1,
        "max-model-len": None,
        "extra-args": ["--a", "x", "--a", "y"],
    }
    assert recipe.lost == ()


def test_the_draft_backend_that_would_be_ours_is_left_to_the_engine() -> None:
    draft = '--speculative-config \'{"method":"eagle3","model":"o/d","num_speculative_tokens":3}\''
    recipe = imported(f"vllm serve o/m --block-size 128 {draft}")
    assert recipe.body["speculative"]["attention-backend"] == "auto"
    assert recipe.lost == ()


def test_a_length_that_the_source_leaves_to_the_engine_is_left_to_it() -> None:
    recipe = imported("vllm serve o/m")
    assert recipe.lost == ()
    assert recipe.body["serve"] == {"max-model-len": None}


def test_lengths_fit_into_the_servers_context() -> None:
    (lengths,) = imported("vllm serve o/m --max-model-len 600").body["scenarios"]["fixed-seq-len"]
    assert (lengths["isl"], lengths["osl"]) == (256, 256)


@pytest.mark.parametrize(
    "topology",
    [
        Topology(),
        Topology(8),
        Topology(8, ep=8),
        Topology(8, ep=8, dp_attn=True),
        Topology(4, pp=2),
        Topology(8, dcp=4),
        Topology(2, pcp=2),
        Topology(4, pp=2, ep=4, dp_attn=True),
        Topology(8, dp_attn=True),
    ],
)
def test_the_parallelism_is_read_back(topology: Topology) -> None:
    from pytest_gpubench.dialects.registry import dialect_of
    from pytest_gpubench.model.frozen import FrozenMap
    from pytest_gpubench.model.specs import ServerSpec

    for dialect in (dialect_of("vllm"), dialect_of("sglang")):
        if dialect.row_error(topology) is None:
            spec = ServerSpec(dialect.name, "m", "h100", topology, FrozenMap())
            assert topology_of(dialect, tuple(dialect.words(spec, ("x",), "n"))[1:]) == topology


@pytest.mark.parametrize(
    "words", ["-dp 2", "-tp 2 -dp 2 -ep", "--data-parallel-size x -ep", "-tp 0", "-tp 99999"]
)
def test_a_parallelism_that_no_row_says_is_refused(words: str) -> None:
    with pytest.raises(GpubenchError, match="no row of a search space says this parallelism"):
        imported(f"vllm serve o/m {words}")


def test_a_row_leaves_defaults_out() -> None:
    assert row_of(Topology(4, pp=2)) == {"tp": 4, "pp": 2}
    assert row_of(Topology(4, ep=4, dp_attn=True)) == {"tp": 4, "ep": 4, "dp-attn": True}


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("MiniMaxAI/MiniMax-M3-MXFP8", "minimaxm3"),
        ("Qwen/Qwen3.5-397B-A17B-FP8", "qwen3.5"),
        ("openai/gpt-oss-120b", "gptoss120b"),
        ("/models/Not", "modelnot"),
        ("o/FP8", "model"),
        ("o/Größe", "gre"),
    ],
)
def test_the_models_word(model: str, prefix: str) -> None:
    assert model_prefix(model) == prefix


SCRIPT = r"""#!/bin/bash
# vllm serve comment --x $Y
export VLLM_A=1 B="x y"   # 'why
PORT=8000
pip install vllm --token=hf_aaaaaaaaaaaaaaaaaaaaaaaa
HIP=${ROCR_VISIBLE_DEVICES} N="${NCCL:-112}" C=$(nproc | head -1) K=$B numactl -N 0 \
  vllm serve 'org/m' --port $PORT --json '{"a": "$b", "c": [1]}' \
  --threads "$(nproc)" --back `date` --semi \; --hash a#b --dollar '$x' 2>&1 | tee log.txt &
wait $!
"""


def test_what_only_a_shell_knows_is_named() -> None:
    server = server_in_text(SCRIPT)
    assert server.options == (
        *("org/m", "--json", '{"a": "$b", "c": [1]}'),
        *("--semi", ";", "--hash", "a#b", "--dollar", "$x"),
    )
    assert server.env == {
        "VLLM_A": "1",
        "B": "x y",
        "HIP": {"from": "ROCR_VISIBLE_DEVICES"},
        "N": {"from": "NCCL", "default": "112"},
        "K": {"from": "B"},
    }
    assert server.lost == (
        "env C=$(nproc head -1): only a shell knows the value",
        "numactl -N 0: stands before the engine; a recipe's `command` may hold it",
        "--threads $(nproc): only a shell knows the value",
        "--back `date`: only a shell knows the value",
        "PORT=8000: a command of the shell",
        "pip install vllm --token=<removed>: a command of the shell",
        ">& 1 | tee log.txt: a command of the shell",
        "wait $!: a command of the shell",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no server command is known in it"),
        ("echo vllm", "no server command is known in it"),
        ("vllm serve a && vllm serve b", "starts 2 servers"),
        ('vllm serve "a', "no closing quotation"),
        ("vllm serve $M", "is one that only a shell knows"),
        ("vllm serve a\\", "no escaped character"),
        ("x" * 1_000_001, "more than 1,000,000 characters"),
    ],
)
def test_a_text_without_one_server(text: str, says: str) -> None:
    with pytest.raises(GpubenchError, match=says.replace("$", r"\$")):
        server_in_text(text)


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    with contextlib.suppress(GpubenchError):
        assert server_in_text(f"vllm serve m {text}").options[0] == "m"


NAME = st.from_regex(r"[a-z]([a-z0-9]|[-_][a-z0-9]){0,15}", fullmatch=True)
ODD = st.sampled_from([
    *("0.90", "1e5", "1e-3", "on", "yes", "null", "~", "true", "True", "01", "+3", "0x1f", "1_000"),
    *("$x", "${a}", "$${a}", "{", "[1]", "#c", ".5", "5.", "1.", "-0", "-0.0", "1e999", "1E310"),
    *("12:30:45", "2020-01-01", "=", "<<", "!t", "&a", "*a", "%d", "@x", "`x`", ";", "\x85", "- d"),
])  # fmt: skip
WORD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.integers(-(10**6), 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    ODD,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
).map(json.dumps)
FLAG = NAME.map("--{}".format)
OPTION = st.one_of(
    st.tuples(FLAG),
    st.tuples(NAME.map("--no-{}".format)),
    st.tuples(FLAG, WORD | JSON),
    st.tuples(FLAG, WORD, WORD),
    st.tuples(st.builds("--{}.{}".format, NAME, NAME), WORD),
    st.builds("--{}={}".format, NAME, WORD).map(lambda word: (word,)),
    st.sampled_from([("-O3",), ("-cc.mode=3",), ("--max-num-seqs", "0"), ("--page-size", "0.0")]),
)
STARTS = st.sampled_from([
    "vllm serve", "python -m vllm.entrypoints.openai.api_server --model", "sglang serve",
    "python3 -m sglang.launch_server --model-path",
])  # fmt: skip
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), WORD, max_size=3)


@given(STARTS, st.lists(OPTION, max_size=6), VARIABLES)
@settings(deadline=None, max_examples=150)
def test_the_plan_of_the_recipe_is_the_command_line(
    start: str, options: list[tuple[str, ...]], env: dict[str, str]
) -> None:
    before = [f"{name}={value}" for name, value in env.items()]
    words = [*before, *start.split(), "org/m", *(word for option in options for word in option)]
    server = server_in_words(words)
    from_text = server_in_text(shlex.join(words))
    assert (from_text.options, from_text.env) == (server.options, server.env)
    try:
        recipe = recipe_of_server(server, Wishes(runner="h100"))
    except GpubenchError as error:
        words_told = str(error)  # a name that was made up may begin one of the row's
        assert "no row of a search space" in words_told
        return
    (told,) = checked([recipe], "x")
    # Nothing differs but what was named; a size without a number, which no engine takes, is found by
    # the plan.
    found = [words for words in told.lost if words not in recipe.lost]
    assert all(words.endswith("the source says True, the recipe nothing") for words in found)


def test_keys_of_a_server_without_a_model() -> None:
    with pytest.raises(GpubenchError, match="names no model"):
        server_keys(server_in_words(["vllm", "serve", "--x"]), "h100")
