"""Tokens of a sample of answers, counted again after the run: usage and the engine's counters come from
one source, which may err.

Text that was decoded is tokenized again, which is not exact: a model may write a word in more tokens than
its tokenizer needs, special tokens leave no text, parts of a character neither. The claim has the benefit
of every such doubt; ``measure.recount`` has the tolerance that is left.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx2

from pytest_gpubench.load.parser import Answer
from pytest_gpubench.load.protocol import LoadPlan

SAMPLE = 32
"""Answers of one run that are counted again, all workers together."""
LIMIT_S = 20.0
"""For all of them."""
LONGEST_TEXT = 256 * 1024
"""Characters of an answer; a longer one is not counted again."""
# A model that is stuck repeats one token, of which its tokenizer would make fewer, longer ones ("!!!!"), or several each.
_STUCK = re.compile(r"(.{1,16}?)\1{3,}", re.DOTALL)
_REPLACED = "\ufffd"

Ask = Callable[[str], Awaitable[int]]
"""How many tokens a text has; raises ``NotCountedError``."""


class NotCountedError(Exception):
    """Nothing counts tokens here; the text says why."""


def sample(numbers: Sequence[int], count: int, seed: str) -> list[int]:
    """At most ``count`` of the numbers, spread over them: one of each of as many equal parts, drawn by the seed."""
    if len(numbers) <= count:
        return list(numbers)
    draw = random.Random(seed)  # noqa: S311  # reproducible, not secret
    edges = [len(numbers) * part // count for part in range(count + 1)]
    return [numbers[draw.randrange(low, high)] for low, high in itertools.pairwise(edges)]


async def recount(plan: LoadPlan, api_key: str, answers: Mapping[int, Answer]) -> tuple[dict[int, int], str]:
    """The tokens of each answer's text by the server's ``/tokenize``; and, where there are none, why.

    Never raises for what a server does, and ends within ``LIMIT_S``, with those that were counted by then.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = httpx2.Timeout(LIMIT_S, connect=plan.connect_timeout)
    counts: dict[int, int] = {}
    why_not = ""
    try:
        async with (
            asyncio.timeout(LIMIT_S),
            httpx2.AsyncClient(base_url=plan.root, headers=headers, timeout=timeout, trust_env=False) as http,
        ):

            async def ask(text: str) -> int:
                return await _ask(http, plan.model, text)

            for number, answer in answers.items():
                counts[number] = await tokens_of(answer, ask)
    except NotCountedError as error:
        why_not = str(error)
    except TimeoutError:
        why_not = f"/tokenize was not done after {LIMIT_S:g} s"
    return counts, "" if counts else why_not


async def tokens_of(answer: Answer, ask: Ask) -> int:
    """Tokens of an answer's text, as near to the claim as honest engines come.

    Raises:
        NotCountedError: as ``ask`` does.
    """
    text, claimed = answer.text.encode("utf-8", "replace").decode("utf-8"), answer.claimed - answer.silent
    if not text:
        return 0
    counted = await ask(text)
    stuck = list(_STUCK.finditer(text)) if counted != claimed else []
    if stuck:
        repeats = sum(len(found[0]) // len(found[1]) - 1 for found in stuck)
        one_each = repeats + await ask(_STUCK.sub(r"\1", text))
        low, high = sorted((counted, one_each))
        counted = min(max(claimed, low), high)
    if counted > claimed and _REPLACED in text:  # bytes that were no text: one token each, of which decoding made several
        rest = text.replace(_REPLACED, "")
        counted = max(claimed, await ask(rest) if rest else 0)
    return counted


async def _ask(http: httpx2.AsyncClient, model: str, text: str) -> int:
    try:
        response = await http.post("/tokenize", json={"model": model, "prompt": text, "add_special_tokens": False})
        if response.status_code != 200:
            raise NotCountedError(f"/tokenize answered {response.status_code}")
        count = response.json()["count"]
    except httpx2.HTTPError as error:
        raise NotCountedError(f"/tokenize did not answer ({type(error).__name__})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotCountedError("/tokenize answered without a count") from error
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise NotCountedError("/tokenize answered without a count")
    return count
