from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gpubench.load.composer import Composer
from pytest_gpubench.load.prompts import (
    WORDS,
    Message,
    Prompt,
    Vocabulary,
    draw_lengths,
    draw_words,
    measure_vocabulary,
)
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.model.failures import BenchmarkError
from pytest_gpubench.model.workload import Workload

PLAN = LoadPlan("http://x", "m", Workload(isl=64, osl=16, conc=2, num_prompts=12, num_warmups=3))


def one_token_words(text: str) -> int:
    return 11 + len(text.split())


def bytes_tokenizer(text: str) -> int:
    return 5 + len(text)


def merging_tokenizer(text: str) -> int:
    """Not additive: some neighbours merge into one token, as SentencePiece may do across spaces."""
    words = text.split()
    return (
        7
        + sum(-(-len(word) // 4) for word in words)
        - sum(a[-1] == b[0] for a, b in pairwise(words))
    )


def make(plan: LoadPlan, tokenizer: Callable[[str], int]) -> tuple[list[Prompt], list[Prompt]]:
    async def count(text: str, history: tuple[Message, ...] = ()) -> int:
        return tokenizer(text)

    return asyncio.run(Composer(plan, count).compose(lambda done, total: None))


@pytest.mark.parametrize("tokenizer", [one_token_words, bytes_tokenizer, merging_tokenizer])
def test_prompts_have_the_drawn_length(tokenizer: Callable[[str], int]) -> None:
    for phase in make(PLAN, tokenizer):
        assert phase
        for prompt in phase:
            assert abs(tokenizer(prompt.text) - prompt.isl) <= 1
            assert 51 <= prompt.isl <= 64
            assert 12 <= prompt.osl <= 16


def test_long_prompt_is_exact() -> None:
    plan = replace(
        PLAN,
        workload=replace(PLAN.workload, isl=100_000, range_ratio=1.0, num_prompts=1, num_warmups=0),
    )
    _, [prompt] = make(plan, one_token_words)
    assert one_token_words(prompt.text) == prompt.isl == 100_000


def test_prompts_are_reproducible_and_unique_per_launch_seed_case_and_phase() -> None:
    def texts(plan: LoadPlan) -> set[str]:
        return {prompt.text for phase in make(plan, one_token_words) for prompt in phase}

    base = texts(PLAN)
    assert len(base) == 15
    assert texts(PLAN) == base
    seeded = replace(PLAN, workload=replace(PLAN.workload, seed=1))
    for other in (replace(PLAN, launch="launch-2"), replace(PLAN, salt="case"), seeded):
        assert not texts(other) & base


def test_lengths_do_not_depend_on_the_launch() -> None:
    assert [prompt.isl for prompt in make(PLAN, one_token_words)[1]] == [
        prompt.isl for prompt in make(replace(PLAN, launch="launch-2"), one_token_words)[1]
    ]


@given(isl=st.integers(1, 10_000), ratio=st.floats(0, 1), index=st.integers(0, 1000))
def test_lengths_stay_in_the_range(isl: int, ratio: float, index: int) -> None:
    workload = Workload(isl=isl, osl=7, conc=1, num_prompts=1, num_warmups=0, range_ratio=ratio)
    drawn_isl, drawn_osl = draw_lengths(workload, "measured", index)
    assert max(1, int(ratio * isl)) <= drawn_isl <= isl
    assert 1 <= drawn_osl <= 7


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    tokens=st.integers(0, 60),
    seed=st.integers(0, 100),
)
def test_drawn_words_never_exceed_and_fill_exactly_when_small_words_exist(
    sizes: list[int], tokens: int, seed: int
) -> None:
    vocabulary = Vocabulary(tuple(f"w{i}" for i in range(len(sizes))), tuple(sizes), 0)
    known = dict(zip(vocabulary.words, sizes, strict=True))
    total = sum(known[word] for word in draw_words(random.Random(seed), vocabulary, tokens))
    assert total <= tokens
    assert tokens - total < min(sizes) or min(sizes) > 1
    if 1 in sizes:
        assert total == tokens


def test_vocabulary_needs_two_requests_where_words_are_tokens() -> None:
    asked = []

    async def count(text: str, history: tuple[Message, ...] = ()) -> int:
        asked.append(text)
        return one_token_words(text)

    vocabulary = asyncio.run(measure_vocabulary(count))
    assert len(asked) == 2
    assert vocabulary.overhead == 11
    assert vocabulary.words == WORDS


def test_isl_below_the_template_is_a_recipe_error() -> None:
    plan = replace(PLAN, workload=replace(PLAN.workload, isl=8))
    with pytest.raises(BenchmarkError, match="chat template alone takes 11 tokens") as found:
        make(plan, one_token_words)
    assert found.value.failure.failure_class == "recipe"


def test_tokenizer_that_cannot_be_hit_is_an_error_not_a_loop() -> None:
    with pytest.raises(BenchmarkError, match="could not be made"):
        make(PLAN, lambda text: 10 * len(text.split()))


def test_words_are_single_and_distinct() -> None:
    assert len(set(WORDS)) == len(WORDS) > 500
    assert all(word.isalpha() and word.isascii() for word in WORDS)
