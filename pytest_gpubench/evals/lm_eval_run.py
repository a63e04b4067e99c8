"""One task of lm-eval against a running server, in a process of its own.

    python -m pytest_gpubench.evals.lm_eval_run PLAN.json

PLAN.json is an `EvalPlan`; the key comes in ``OPENAI_API_KEY``. Every answer is a line of
``answers.jsonl`` the moment it arrives; ``judged.json`` is written at the end: what lm-eval made of
each. lm-eval draws the questions, writes the prompts and judges; requests are made here, by the
OpenAI client, so that a refusal, a cut answer and an empty one are told apart from a wrong one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

ANSWERS, JUDGED = "answers.jsonl", "judged.json"
REQUEST_TIMEOUT = 600.0
"""Seconds for one answer."""


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """What is asked, of whom."""

    base_url: str
    """Ends in ``/v1``."""
    model: str
    """Served name."""
    task: str
    """A name that lm-eval knows, or one of `include_path`."""
    folder: str
    """Where the answers go."""
    include_path: str | None = None
    """Folder with tasks beside lm-eval's own."""
    shots: int | None = None
    """Examples before each question; None: as the task has it."""
    limit: int | None = None
    """The first so many questions; None: all."""
    concurrency: int = 1
    max_tokens: int | None = None
    """Of an answer; None: as the task has it."""

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> EvalPlan:
        """Of plain data."""
        return cls(**{item.name: plain[item.name] for item in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server made of one prompt."""

    text: str
    finish_reason: str | None
    error: str = ""
    """Status and first words of a refusal; empty where there is an answer."""


def served_model(plan: EvalPlan, answers: IO[str]) -> Any:
    """A model of lm-eval that asks the server and writes down what it says."""
    from lm_eval.api.model import LM

    class ServedModel(LM):  # type: ignore[misc]
        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            del add_generation_prompt  # the server's template ends with it
            return json.dumps(chat_history)

        @property
        def tokenizer_name(self) -> str:
            return plan.model

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            return asyncio.run(_ask_all(plan, [request.args for request in requests], answers))

        def loglikelihood(self, requests: Sequence[Any], **_: Any) -> Any:
            del requests
            raise NotImplementedError(_NOT_GENERATED)

        loglikelihood_rolling = loglikelihood

    return ServedModel()


_NOT_GENERATED = (
    "this task asks for likelihoods of given texts, which chat completions do not tell: choose one "
    "that generates its answers (output_type: generate_until)"
)


async def _ask_all(
    plan: EvalPlan, asked: Sequence[tuple[str, Mapping[str, Any]]], answers: IO[str]
) -> list[str]:
    import openai

    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=plan.base_url, max_retries=0, timeout=REQUEST_TIMEOUT, http_client=http
    ) as client:
        free = asyncio.Semaphore(plan.concurrency)

        async def one(index: int, prompt: str, wanted: Mapping[str, Any]) -> str:
            async with free:
                answer = await _ask(client, plan, prompt, wanted)
            line = {"index": index, "prompt": json.loads(prompt), **asdict(answer)}
            answers.write(json.dumps(line) + "\n")
            answers.flush()
            return answer.text

        return await asyncio.gather(*(one(index, *each) for index, each in enumerate(asked)))


async def _ask(client: Any, plan: EvalPlan, prompt: str, wanted: Mapping[str, Any]) -> Answer:
    import openai

    stop = wanted.get("until") or []
    try:
        said = await client.chat.completions.create(
            model=plan.model,
            messages=json.loads(prompt),
            temperature=0,
            seed=0,
            max_tokens=plan.max_tokens or int(wanted.get("max_gen_toks", 256)),
            stop=([stop] if isinstance(stop, str) else list(stop))[:4] or openai.omit,
        )
        choice = said.choices[0]
        return Answer(choice.message.content or "", choice.finish_reason)
    except openai.APIStatusError as error:
        return Answer("", None, f"HTTP {error.status_code}: {error.message[:300]}")
    except (openai.APIError, IndexError, AttributeError) as error:
        return Answer("", None, f"{type(error).__name__}: {str(error)[:300]}")


def run(plan: EvalPlan) -> dict[str, Any]:
    """Evaluate, and return what ``judged.json`` holds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(plan.folder)
    with (folder / ANSWERS).open("w", encoding="utf-8") as answers:
        found = lm_eval.simple_evaluate(
            model=served_model(plan, answers),
            tasks=[plan.task],
            num_fewshot=plan.shots,
            limit=plan.limit,
            apply_chat_template=True,
            fewshot_as_multiturn=bool(plan.shots),
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=plan.include_path),
        )
    (task,) = found["samples"]
    return {
        "task": task,
        "lm_eval": lm_eval.__version__,
        "version": found["versions"].get(task),
        "shots": found["n-shot"].get(task),
        "scores": {key: value for key, value in found["results"][task].items() if "," in key},
        "samples": [
            {
                "id": sample["doc_id"],
                "question": sample["prompt_hash"],
                "filter": sample["filter"],
                "target": str(sample["target"]),
                "said": sample["resps"][0][0],
                "read": sample["filtered_resps"][0],
                "metrics": {name: sample[name] for name in sample["metrics"]},
            }
            for sample in found["samples"][task]
        ],
    }


def main() -> None:
    """Command line."""
    plan = EvalPlan.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    judged = json.dumps(run(plan), default=str)
    (Path(plan.folder) / JUDGED).write_text(judged, encoding="utf-8")


if __name__ == "__main__":
    main()
