"""What the server's ``/tokenize`` says: the length of prompts before the run, of a sample of
answers after it.

Answers are counted again since usage and the engine's counters come from one source, which may err.
Text that was decoded is tokenized again, which is not exact: a model may write a word in more
tokens than its tokenizer needs, special tokens leave no text, parts of a character neither. The
claim has the benefit of every such doubt; ``measure.validity`` has the tolerance that is left.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_gpubench.dialects.dialect import Dialect, TokenizeRequest
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.load.asking import Asker, NotAnsweredError
from pytest_gpubench.load.openai_wire import openai_messages
from pytest_gpubench.load.parser import Answer
from pytest_gpubench.load.prompts import Message, Prompt
from pytest_gpubench.load.protocol import LoadPlan
from pytest_gpubench.load.transport import NO_CONNECTION
from pytest_gpubench.model.failures import BenchmarkError, Failure, FailureClass
from pytest_gpubench.model.frozen import thaw

_TOKENIZE_TIMEOUT = 30.0
"""Seconds for a whole answer; a prompt of a million tokens takes a few."""
_LARGEST_ANSWER, _PER_BYTE = 2**20, 64
"""Bytes of an answer, and more for each byte of the request: ids of ten digits, and the tokens as
text besides."""
_MOST_TOKENS = 10**9
_PARALLEL = 8
REFUSED = "prompt-refused"
"""Cause of a failure: the server's chat template, or its length limit, refuses a prompt."""
SAMPLE = 32
"""Answers of one run that are counted again, all workers together."""
LIMIT_S = 20.0
"""For all of them."""
LONGEST_TEXT = 256 * 1024
"""Characters of an answer; a longer one is not counted again."""
# A model that is stuck repeats one token, of which its tokenizer would make fewer, longer ones
# ("!!!!"), or several each.
_STUCK = re.compile(r"(.{1,16}?)\1{3,}", re.DOTALL)
_REPLACED = "\ufffd"

Ask = Callable[[str], Awaitable[int]]
"""How many tokens a text has; raises ``NotCountedError``."""


class NotCountedError(Exception):
    """Nothing counts tokens here; the text says why."""


def _asker(plan: LoadPlan, api_key: str) -> Asker:
    keeps = dialect_of(plan.framework).keeps_connections
    return Asker(plan.root, api_key, plan.connect_timeout, keeps_connections=keeps)


async def _posted(asker: Asker, asks: TokenizeRequest) -> tuple[int, str, bytes]:
    """Status, where a redirect points, and body of the answer to the last of the questions, or to
    the first that is not answered with 200."""
    while True:
        asked = json.dumps(asks.body).encode()
        limit = _LARGEST_ANSWER + _PER_BYTE * len(asked)
        answer = await asker.post(asks.path, asked, limit)
        body = b"".join(piece for _, piece in answer.pieces)
        if answer.status != 200 or asks.then is None:
            return answer.status, answer.headers.get("location", ""), body
        asks = asks.then(json.loads(body))


def _counted(dialect: Dialect, data: bytes) -> tuple[int, Any]:
    """Count and tokens of an answer; raises as `Dialect.tokens` where it has no count."""
    count, tokens = dialect.tokens(json.loads(data))
    if type(count) is not int or not 0 <= count <= _MOST_TOKENS:
        raise ValueError("no count")
    return count, tokens


_NO_ANSWER = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading something else than an answer raises."""


class TokenCounter:
    """Counts tokens of a text as the workload would send it, through the server's ``/tokenize``."""

    def __init__(self, plan: LoadPlan, api_key: str) -> None:
        self._plan = plan
        self._dialect = dialect_of(plan.framework)
        self._asker = _asker(plan, api_key)

    def close(self) -> None:
        self._asker.close()

    async def __call__(self, text: str, history: tuple[Message, ...] = ()) -> int:
        """Tokens of a request with this text as its last message.

        Raises:
            BenchmarkError: if the server does not answer, or not with a count.
        """
        return (await self._ask(text, history))[0]

    async def token_ids(self, text: str, history: tuple[Message, ...] = ()) -> array[int]:
        """The tokens themselves; raises as a call does."""
        _, tokens = await self._ask(text, history)
        try:
            return array("I", tokens)
        except (TypeError, OverflowError, ValueError) as error:
            summary = f"{self._plan.root}/tokenize answered without token ids"
            raise BenchmarkError(Failure("tokenize-failed", "engine", summary)) from error

    async def _ask(self, text: str, history: tuple[Message, ...]) -> tuple[int, Any]:
        workload = self._plan.workload
        if workload.chat_template == "none":
            asks = self._dialect.tokenize_text(self._plan.model, text, special=True)
        else:
            messages = openai_messages(text, history)
            template = thaw(workload.chat_template_kwargs)
            asks = self._dialect.tokenize_chat(self._plan.model, messages, template)
        try:
            async with asyncio.timeout(_TOKENIZE_TIMEOUT):
                status, location, data = await _posted(self._asker, asks)
        except _NO_ANSWER as error:  # of a question before the last one
            raise self._failed("did not answer as its engine does", str(error)) from error
        except TimeoutError:
            raise self._failed(f"gave no whole answer within {_TOKENIZE_TIMEOUT:g} s") from None
        except NotAnsweredError as error:
            nobody = str(error).startswith(NO_CONNECTION)
            raise self._failed(
                f"did not answer: {error}", failure_class="client" if nobody else "engine"
            ) from error
        text = data[:500].decode("utf-8", "replace")
        if status in (400, 422):
            said = "the server refuses a prompt"
            raise BenchmarkError(Failure(REFUSED, "recipe", f"{said} ({status})", (text,)))
        if status != 200:
            where = f", a redirect to {location[:200]!r} that is not followed"
            redirect = where if 300 <= status < 400 else ""
            remedy = "The server must offer /tokenize as its engine does." if status == 404 else ""
            words = f"answered {status}{redirect}, so prompts cannot be sized"
            raise self._failed(words, text, remedy)
        try:
            return _counted(self._dialect, data)
        except _NO_ANSWER as error:
            raise self._failed("answered without a count or the tokens", text) from error

    def _failed(
        self,
        what: str,
        evidence: str = "",
        remedy: str = "",
        failure_class: FailureClass = "engine",
    ) -> BenchmarkError:
        words, lines = f"{self._plan.root}/tokenize {what}", tuple(filter(None, [evidence]))
        return BenchmarkError(Failure("tokenize-failed", failure_class, words, lines, remedy))


async def with_token_ids(prompts: Sequence[Prompt], counter: TokenCounter) -> list[Prompt]:
    """The prompts as the token ids that the server's tokenizer, and its template where the workload
    has one, makes of them."""
    parallel = asyncio.Semaphore(_PARALLEL)
    made: dict[tuple[str, tuple[Message, ...]], array[int]] = {}

    async def make(prompt: Prompt) -> None:
        async with parallel:
            key = prompt.text, prompt.history
            if key not in made:
                made[key] = await counter.token_ids(*key)

    await asyncio.gather(*(make(prompt) for prompt in prompts))
    return [replace(prompt, token_ids=made[prompt.text, prompt.history]) for prompt in prompts]


def sample(numbers: Sequence[int], count: int, seed: str) -> list[int]:
    """At most ``count`` of the numbers, spread over them: one of each of as many equal parts, drawn
    by the seed."""
    if len(numbers) <= count:
        return list(numbers)
    draw = random.Random(seed)  # noqa: S311  # reproducible, not secret
    edges = [len(numbers) * part // count for part in range(count + 1)]
    return [numbers[draw.randrange(low, high)] for low, high in itertools.pairwise(edges)]


async def recount(
    plan: LoadPlan, api_key: str, answers: Mapping[int, Answer]
) -> tuple[dict[int, int], str]:
    """The tokens of each answer's text by the server's ``/tokenize``; and, where there are none,
    why.

    Never raises for what a server does, and ends within ``LIMIT_S``, with those that were counted
    by then.
    """
    counts: dict[int, int] = {}
    why_not = ""
    asker = _asker(plan, api_key)

    async def ask(text: str) -> int:
        return await _ask(asker, plan, text)

    try:
        async with asyncio.timeout(LIMIT_S):
            for number, answer in answers.items():
                counts[number] = await tokens_of(answer, ask)
    except NotCountedError as error:
        why_not = str(error)
    except TimeoutError:
        why_not = f"/tokenize was not done after {LIMIT_S:g} s"
    finally:
        asker.close()
    return counts, "" if counts else why_not


async def tokens_of(answer: Answer, ask: Ask) -> int:
    """Tokens of an answer's text, as near to the claim as honest engines come.

    Raises:
        NotCountedError: as ``ask`` does.
    """
    text = answer.text.encode("utf-8", "replace").decode("utf-8")
    claimed = answer.claimed - answer.silent
    if not text:
        return 0
    counted = await ask(text)
    if counted != claimed and _STUCK.search(text):
        repeats = sum(len(run[0]) // len(run[1]) - 1 for run in _STUCK.finditer(text))
        one_each = repeats + await ask(_STUCK.sub(r"\1", text))
        low, high = sorted((counted, one_each))
        counted = min(max(claimed, low), high)
    # bytes that were no text: one token each, of which decoding made several
    if counted > claimed and _REPLACED in text:
        rest = text.replace(_REPLACED, "")
        counted = claimed
        if rest:
            counted = max(claimed, await ask(rest))
    return counted


async def _ask(asker: Asker, plan: LoadPlan, text: str) -> int:
    dialect = dialect_of(plan.framework)
    try:
        asks = dialect.tokenize_text(plan.model, text, special=False)
        status, _, data = await _posted(asker, asks)
        if status != 200:
            raise NotCountedError(f"/tokenize answered {status}")
        return _counted(dialect, data)[0]
    except NotAnsweredError as error:
        raise NotCountedError(f"/tokenize did not answer ({error})") from error
    except _NO_ANSWER as error:
        raise NotCountedError("/tokenize answered without a count") from error
