"""One task of lm-eval against a running server, in a process of its own.

    python -P lm_eval_run.py PLAN.jsonl

The plan is an `EvalPlan`; the key comes in ``OPENAI_API_KEY``. Every answer is a line of
``answers.jsonl`` the moment it arrives; ``judged.jsonl`` is written at the end: what lm-eval made
of each. lm-eval draws the questions, writes the prompts and judges; requests are made here, by the
OpenAI client, so that a refusal, a cut answer and an empty one are told apart from a wrong one.

It is started by its path and imports nothing of the package, whose place its interpreter need not
know.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

PLAN, ANSWERS, JUDGED = "plan.jsonl", "answers.jsonl", "judged.jsonl"
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
    """A name that lm-eval knows, or the path of a task's YAML file."""
    folder: str
    """Where the answers go."""
    shots: int | None = None
    """Examples before each question; None: as the task has it."""
    limit: int | None = None
    """The first so many questions; None: all."""
    concurrency: int = 1
    max_tokens: int | None = None
    """Of an answer; None: as the task has it."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the chat template by the server, as with the load."""
    only_fetch: bool = False
    """Bring the data set and ask nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server made of one prompt."""

    text: str
    finish_reason: str | None
    error: str = ""
    """Status and first words of a refusal; empty where there is an answer."""
    prompt_tokens: int = 0
    """As the server counts."""
    output_tokens: int = 0


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


_MOST_STOPS = 4
"""That the OpenAI API takes."""
_NOT_GENERATED = (
    "this task asks for likelihoods of given texts, which chat completions do not tell: choose one "
    "that generates its answers (output_type: generate_until)"
)


async def _ask_all(
    plan: EvalPlan, asked: Sequence[tuple[str, Mapping[str, Any]]], answers: IO[str]
) -> list[str]:
    import openai

    http = openai.DefaultAsyncHttpxClient(
        follow_redirects=False,
        trust_env=False,
        # knows SSL_CERT_FILE, which trust_env=False would take away
        verify=ssl.create_default_context(),
    )
    async with openai.AsyncOpenAI(
        base_url=plan.base_url, max_retries=0, timeout=REQUEST_TIMEOUT, http_client=http
    ) as client:
        free = asyncio.Semaphore(plan.concurrency)

        async def one(index: int, prompt: str, wanted: Mapping[str, Any]) -> str:
            async with free:
                answer = await _ask(client, plan, prompt, wanted)
            line = {
                "question": hashlib.sha256(prompt.encode()).hexdigest(),
                "index": index,
                "prompt": json.loads(prompt),
                **asdict(answer),
            }
            answers.write(json.dumps(line) + "\n")
            answers.flush()
            return answer.text

        return await asyncio.gather(*(one(index, *each) for index, each in enumerate(asked)))


async def _ask(client: Any, plan: EvalPlan, prompt: str, wanted: Mapping[str, Any]) -> Answer:
    import openai

    stop = wanted.get("until") or []
    more = (
        {"chat_template_kwargs": plan.chat_template_kwargs} if plan.chat_template_kwargs else None
    )
    try:
        said = await client.chat.completions.create(
            model=plan.model,
            messages=json.loads(prompt),
            temperature=0,
            seed=0,
            max_tokens=plan.max_tokens or int(wanted.get("max_gen_toks", 256)),
            stop=([stop] if isinstance(stop, str) else list(stop))[:_MOST_STOPS] or openai.omit,
            extra_body=more,
        )
        choice, usage = said.choices[0], said.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Answer(choice.message.content or "", choice.finish_reason, "", *counts)
    except openai.APIStatusError as error:
        return Answer("", None, f"HTTP {error.status_code}: {error.message[:300]}")
    except (openai.APIError, IndexError, AttributeError) as error:
        return Answer("", None, f"{type(error).__name__}: {str(error)[:300]}")


def run(plan: EvalPlan) -> list[dict[str, Any]]:
    """Evaluate; what ``judged.jsonl`` holds: of the task, then of each question and filter."""
    import lm_eval

    name, tasks = _task(plan)
    folder = Path(plan.folder)
    with (folder / ANSWERS).open("w", encoding="utf-8") as answers:
        found = lm_eval.simple_evaluate(
            model=served_model(plan, answers),
            tasks=[name],
            num_fewshot=plan.shots,
            limit=plan.limit,
            apply_chat_template=True,
            fewshot_as_multiturn=bool(plan.shots),
            bootstrap_iters=0,
            task_manager=tasks,
        )
    if len(found["samples"]) != 1:
        raise SystemExit(f"{name} is a group of {len(found['samples'])} tasks: name one of them")
    (task,) = found["samples"]
    head = {
        "task": task,
        "lm_eval": lm_eval.__version__,
        "version": found["versions"].get(task),
        "shots": found["n-shot"].get(task),
        "scores": {key: value for key, value in found["results"][task].items() if "," in key},
    }
    return [
        head,
        *(
            {
                "id": sample["doc_id"],
                "question": sample["prompt_hash"],
                "filter": sample["filter"],
                "target": str(sample["target"]),
                "read": sample["filtered_resps"][0],
                "metrics": {name: sample[name] for name in sample["metrics"]},
            }
            for sample in found["samples"][task]
        ),
    ]


def _task(plan: EvalPlan) -> tuple[str, Any]:
    """The task's name, and what finds it: a file is looked for in its own folder alone, as reading
    the list of lm-eval's own tasks takes seconds."""
    from lm_eval.tasks import TaskManager

    if not plan.task.endswith((".yaml", ".yml")):
        return plan.task, TaskManager()
    path = Path(plan.task)
    named = re.search(
        r"^task:\s*[\"']?([^\s\"'#]+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    if named is None:
        raise SystemExit(f"{path} names no task: add a line `task: NAME`")
    return named[1], TaskManager(include_path=str(path.parent), include_defaults=False)


def main() -> None:
    plan = EvalPlan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if plan.only_fetch:
        name, tasks = _task(plan)
        tasks.load_task_or_group([name])
        return
    judged = "".join(json.dumps(line, default=str) + "\n" for line in run(plan))
    (Path(plan.folder) / JUDGED).write_text(judged, encoding="utf-8")


if __name__ == "__main__":
    main()
