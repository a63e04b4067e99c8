"""Flags that are ours, in every spelling that the engine's parser takes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.dialects.vllm import DIALECT as VLLM
from pytest_gpubench.model.cases import RecipeBook

FLAGS = VLLM.flags
our_flag, our_word, words_error = FLAGS.our_flag, FLAGS.our_word, FLAGS.words_error


@pytest.mark.parametrize("flag", FLAGS.ours)
def test_every_spelling_of_a_flag(flag: str) -> None:
    spellings = [
        flag,
        flag.replace("-", "_"),
        f"no-{flag}",
        f"{flag}.key",
        f"{flag}.key+",
        flag[: max(2, len(flag) - 1)],
    ]
    for spelling in spellings:
        assert our_flag(spelling), spelling
        assert our_word(f"--{spelling}"), spelling
        assert our_word(f"--{spelling}=1"), spelling


@pytest.mark.parametrize(
    "word",
    [
        "-tp",
        "-tp=8",
        "-dp",
        "-pp",
        "-sc",
        "-sc.method",
        "-pcp",
        "-dcp",
        "-ep",
        "-d",
        "--hos",
        "--po",
    ],
)
def test_short_and_cut_forms(word: str) -> None:
    assert words_error(["--fine", word, "9"])


@pytest.mark.parametrize(
    "word",
    [
        "--admin-api-key",
        "--some-token=x",
        "--db-password",
        "--client-secret",
        "--ssl-keyfile-password",
    ],
)
def test_flags_that_carry_secrets(word: str) -> None:
    assert "can be read by every user" in str(words_error([word]))


OTHERS = [
    "-O3",
    "-1",
    "-.5",
    "--hf-overrides",
    "--model-impl",
    "--max-model-len",
    "--config-format",
    "--tokenizer",
    "--revise",
]
OTHERS += [
    "--seed",
    "--num-speculative-tokens",
    "--return-tokens-as-token-ids",
    "port",
    "--",
    "-",
    "",
    "--enable-auto-tool-choice",
]


@pytest.mark.parametrize("word", OTHERS)
def test_other_words_pass(word: str) -> None:
    assert words_error([word]) is None


LINES = {
    "serve": (
        "serve: {block-size: 128, hos: 0.0.0.0}",
        "serve.hos: this flag is not a recipe's to set",
    ),
    "list": ("serve: {a: [x, --port, 9]}", "serve.a: holds --port"),
    "extra": ("serve: {extra-args: [--foo, '--por=9']}", "serve.extra-args: holds --por"),
    "rendered": ("serve: {extra-args: ['--fd=${conc}']}", "serve.extra-args: holds --fd"),
    "when": (
        "when: [{if: tp > 0, serve: {extra-args: [--uds, x]}}]",
        "serve.extra-args: holds --uds",
    ),
    "no HTTP": ("serve: {extra-args: [--grpc]}", "holds --grpc"),
    "several hosts": ("serve: {nnodes: 2}", "serve.nnodes: this flag is not a recipe's to set"),
    "several hosts, short": ("serve: {extra-args: [-n, '2']}", "serve.extra-args: holds -n"),
    "said twice": (
        "serve: {block-size: 64, extra-args: ['--block_size=128']}",
        "serve.extra-args: holds --block_size, and `serve` sets block-size: say it once",
    ),
    "the length": (
        "serve: {extra-args: [--max-model-len, '9000']}",
        "serve.extra-args: holds --max-model-len, and `serve` sets max-model-len: say it once",
    ),
    "turned off": (
        "serve: {enable-prefix-caching: true, extra-args: [--no-enable-prefix-caching]}",
        "holds --no-enable-prefix-caching, and `serve` sets enable-prefix-caching: say it once",
    ),
    "command": ("command: vllm serve --api-key abcdef", "command: holds --api-key"),
    "command list": ("command: [python, -m, x, --config, y]", "command: holds --config"),
    "secret in a map": (
        "serve: {hf-overrides: {a: {api_key: pa55word}}}",
        "serve.hf-overrides: holds a value of api_key: a command line can be read",
    ),
    "secret in a text": (
        'serve: {hf-overrides: \'{"token": "pa55word"}\'}',
        "serve.hf-overrides: holds a value of token",
    ),
    "nul": ('serve: {extra-args: ["a\\0b"]}', "holds a NUL"),
    "token": (
        "serve: {hf-token: hf_ABCDEFGH}",
        "serve.hf-token: this flag is not a recipe's to set",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_recipe_is_refused_with_its_place(
    name: str, load: Callable[..., RecipeBook], whole: str
) -> None:
    line, words = LINES[name]
    text = whole.replace("serve: {block-size: 128}", line)
    problems = [str(problem) for problem in load(text).problems]
    assert problems
    assert words in problems[0]
    assert re.search(r"r0\.yaml:\d+:\d+: ", problems[0])


@pytest.mark.parametrize(
    "value",
    ["{token_type_ids: abcdefgh, max_tokens: 5}", "{token: '${conc}'}", "token"],
)
def test_what_only_sounds_like_a_secret_is_let_pass(
    value: str, load: Callable[..., RecipeBook], whole: str
) -> None:
    text = whole.replace("serve: {block-size: 128}", f"serve: {{hf-overrides: {value}}}")
    assert load(text).problems == ()


@pytest.mark.parametrize("word", ["-hft", "-hfr", "-hfd", "-hfrd", "-dr", "--models-preset"])
def test_other_spellings_of_llama_cpp_for_what_is_ours(word: str) -> None:
    assert dialect_of("llamacpp").flags.words_error([word, "x"])


def test_a_length_that_leaves_its_sequences_nothing(load: Callable[..., RecipeBook]) -> None:
    (problem,) = load(
        """
        tiny-f32-cpu-llamacpp:
          model: pytest-gpubench/tiny-llama-gguf
          model-prefix: tiny
          precision: f32
          framework: llamacpp
          runner: cpu
          scenarios:
            fixed-seq-len: [{isl: 1, osl: 1, search-space: [{tp: 1, conc-list: [1]}]}]
          serve: {ctx-size: 6, parallel: 8}
        """
    ).problems
    assert problem.message == "6 leaves none of 8 sequences a token; raise it"
