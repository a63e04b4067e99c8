"""A load generator as one writes it with the OpenAI client and asyncio: what the comparison calls
"plain". Prints JSON.

    python plain_openai.py URL CONCURRENCY REQUESTS TOKENS WORDS [--aiohttp]

Needs only ``openai`` (with ``--aiohttp``: ``openai[aiohttp]``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from typing import Any

import openai

VOCABULARY = (
    "able",
    "about",
    "above",
    "across",
    "again",
    "air",
    "all",
    "animal",
    "answer",
    "apple",
    "area",
    "arm",
    "army",
    "ask",
)


async def one(
    client: openai.AsyncOpenAI, gate: asyncio.Semaphore, tokens: int, text: str
) -> tuple[float, float]:
    """(TTFT, TPOT) of one request in seconds."""
    async with gate:
        start = time.perf_counter()
        first = last = 0.0
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="loopback",
            messages=[{"role": "user", "content": text}],
            max_completion_tokens=tokens,
            stream=True,
            stream_options=options,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                last = time.perf_counter()
                first = first or last
    return first - start, (last - first) / (tokens - 1)


async def main() -> None:
    """Send all requests and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for name in ("concurrency", "requests", "tokens", "words"):
        parser.add_argument(name, type=int)
    parser.add_argument("--aiohttp", action="store_true")
    options = parser.parse_args()
    rng = random.Random(0)
    texts = [" ".join(rng.choices(VOCABULARY, k=options.words)) for _ in range(options.requests)]
    http: Any = openai.DefaultAioHttpClient() if options.aiohttp else None
    # by default it gives up after 5 s without a connection, which it does not manage itself under
    # load
    chosen: Any = {"max_retries": 0, "timeout": 600, "http_client": http}
    async with openai.AsyncOpenAI(base_url=f"{options.url}/v1", api_key="none", **chosen) as client:
        gate = asyncio.Semaphore(options.concurrency)
        await asyncio.gather(
            *(
                one(client, gate, options.tokens, f"warm {text}")
                for text in texts[: options.concurrency]
            )
        )
        found = await asyncio.gather(*(one(client, gate, options.tokens, text) for text in texts))
    print(
        json.dumps(
            {
                "ttft": statistics.fmean(ttft for ttft, _ in found),
                "tpot": statistics.fmean(tpot for _, tpot in found),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
