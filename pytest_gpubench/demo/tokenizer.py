"""The demo models' tokenizer: byte-level BPE in which every listed word is one token.

Prompts of listed words therefore have lengths that are known without a tokenizer, and any other
text still encodes, as pieces and bytes. Ids stay below 2048.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('the demo model knows the roles system, user and assistant, not ' + "
    "message['role']) }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


@cache
def words() -> tuple[str, ...]:
    """The words that are one token each (with the space before them), in the order of their ids."""
    return tuple(files(__package__).joinpath("words.txt").read_text(encoding="ascii").split())


@cache
def vocabulary() -> dict[str, int]:
    """Token to id: special tokens, bytes, words, then word pieces; exactly ``VOCAB_SIZE`` ids."""
    table = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *_alphabet()))}
    for word in words():
        table[SPACE + word] = len(table)
    for left, right in _merges():
        table.setdefault(left + right, len(table))
    return table


def tokenizer_files(max_length: int) -> dict[str, bytes]:
    """The tokenizer's files by name, byte for byte the same wherever they are made.

    Args:
        max_length: the model's longest sequence in tokens.
    """
    table = vocabulary()
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, **_special(token)} for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # a listed word is its token even where no chain of merges leads to it
            "ignore_merges": True,
            "vocab": table,
            "merges": [f"{left} {right}" for left, right in _merges()],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "add_prefix_space": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "added_tokens_decoder": {
            str(index): _special(token) for index, token in enumerate(SPECIAL_TOKENS)
        },
        "chat_template": CHAT_TEMPLATE,
    }
    return {"tokenizer.json": to_json(tokenizer), "tokenizer_config.json": to_json(config)}


def to_json(value: object) -> bytes:
    """JSON as the model files hold it: indented, in the order given, with a final newline."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


SPACE = "\u0120"
"""How byte-level BPE spells a space."""


def _special(token: str) -> dict[str, object]:
    return {
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _alphabet() -> list[str]:
    """The 256 characters by which byte-level BPE writes bytes: printable ones as they are, the
    others moved behind Latin-1."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return sorted(chr(byte) for byte in printable) + [
        chr(0x100 + index) for index in range(256 - len(printable))
    ]


@cache
def _merges() -> tuple[tuple[str, str], ...]:
    """Merges that tokenizers' ``BpeTrainer`` learned from the word list, most frequent pair first.

    They are kept as data, with ``_`` for the space, so that ids do not depend on the version of a
    library.
    """
    lines = (
        files(__package__)
        .joinpath("merges.txt")
        .read_text(encoding="ascii")
        .replace("_", SPACE)
        .splitlines()
    )
    return tuple((left, right) for left, _, right in (line.partition(" ") for line in lines))
