from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from pytest_gpubench.demo import tokenizer as demo


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_str(demo.tokenizer_files(4096)["tokenizer.json"].decode())


def test_vocabulary_fills_the_ids_without_gaps() -> None:
    table = demo.vocabulary()
    assert sorted(table.values()) == list(range(demo.VOCAB_SIZE))
    assert len(demo.words()) == 1500


def test_every_word_is_one_token_wherever_it_stands(tokenizer: Tokenizer) -> None:
    text = " ".join(demo.words())
    assert len(tokenizer.encode(text).ids) == len(demo.words())
    assert tokenizer.encode("word word word").ids == [demo.vocabulary()["\u0120word"]] * 3
    assert len(tokenizer.encode("<|user|>word word<|end|>").ids) == 4


@given(st.text(max_size=60))
def test_any_text_survives_a_round_trip(text: str) -> None:
    tokenizer = Tokenizer.from_str(demo.tokenizer_files(4096)["tokenizer.json"].decode())
    marked = "\n" + text
    assert (
        tokenizer.decode(
            tokenizer.encode(marked, add_special_tokens=False).ids, skip_special_tokens=False
        ).lstrip(" ")
        == marked
    )


def test_merges_are_what_tokenizers_learns_from_the_word_list() -> None:
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=True)
    trainer = BpeTrainer(
        vocab_size=1500, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    trained.train_from_iterator(list(demo.words()), trainer)
    learned = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    shipped = [
        tuple(merge.split(" "))
        for merge in json.loads(demo.tokenizer_files(4096)["tokenizer.json"])["model"]["merges"]
    ]
    assert shipped == learned[: len(shipped)]


def test_files_are_the_same_each_time() -> None:
    assert demo.tokenizer_files(4096) == demo.tokenizer_files(4096)


def test_chat_template_renders_the_three_roles(tokenizer: Tokenizer) -> None:
    def refuse(message: str) -> None:
        raise ValueError(message)

    template = Environment(autoescape=False).from_string(demo.CHAT_TEMPLATE)
    turns = [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "sing"},
        {"role": "assistant", "content": "song"},
    ]
    text = template.render(
        messages=turns, bos_token="<|begin|>", add_generation_prompt=True, raise_exception=refuse
    )
    assert text == (
        "<|begin|><|system|>be good<|end|><|user|>sing<|end|><|assistant|>song<|end|><|assistant|>"
    )
    assert len(tokenizer.encode(text).ids) == 12
    with pytest.raises(ValueError, match="roles system, user and assistant, not tool"):
        template.render(
            messages=[{"role": "tool", "content": ""}], bos_token="", raise_exception=refuse
        )


def test_data_files_hold_plain_words() -> None:
    assert all(word.isascii() and word.isalpha() for word in demo.words())
    assert Path(demo.__file__).with_name("words.txt").is_file()
