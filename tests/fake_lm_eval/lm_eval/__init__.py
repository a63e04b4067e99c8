"""What of lm-eval `pytest_gpubench.evals.lm_eval_run` uses, in the form of release 0.4.13, with one
task, ``sums``: what is i + 7 i? tests/evals/test_lm_eval_run.py holds the form against the real
one where that is installed."""

import hashlib
import os
import re
import time
from typing import Any

__version__ = "0.4.13"
QUESTIONS = 100


def simple_evaluate(
    model: Any,
    tasks: list[str],
    num_fewshot: int | None,
    limit: int | None,
    apply_chat_template: bool,
    fewshot_as_multiturn: bool,
    bootstrap_iters: int,
    task_manager: Any,
) -> dict[str, Any]:
    if os.environ.get("FAKE_LM_EVAL") == "fail":
        raise KeyError("the data set is not there, and this is offline")
    if tasks == ["sleep"]:
        time.sleep(600)
    assert os.environ["HF_DATASETS_OFFLINE"] == os.environ["HF_HUB_OFFLINE"] == "1"
    (task,) = tasks
    numbers = range(min(limit or QUESTIONS, QUESTIONS))
    shots = [
        part
        for shot in range(num_fewshot or 0)
        for part in (
            {"role": "user", "content": f"What is {shot} + 0?"},
            {"role": "assistant", "content": str(shot)},
        )
    ]
    fault = f" {task}" if re.fullmatch(r"[a-z]+-\d+", task) else ""  # of the stub engine
    prompts = [
        model.apply_chat_template(
            [*shots, {"role": "user", "content": f"What is {i} + {7 * i}?{fault}"}]
        )
        for i in numbers
    ]
    wanted = {"until": ["\n"], "max_gen_toks": 16}
    said = model.generate_until([_Request((prompt, wanted)) for prompt in prompts])
    samples: list[dict[str, Any]] = []
    for name, pattern in (("first-sentence", r"\d+"), ("whole", r"(?s).*")):
        for i, prompt, text in zip(numbers, prompts, said, strict=True):
            found = re.search(pattern, text)
            read = found[0] if found else "[invalid]"
            samples.append(
                {
                    "doc_id": i,
                    "doc": {"number": i},
                    "target": str(8 * i),
                    "arguments": [(prompt, wanted)],
                    "resps": [[text]],
                    "filtered_resps": [read],
                    "filter": name,
                    "metrics": ["exact_match", "closeness"],
                    "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
                    "exact_match": float(read == str(8 * i)),
                    "closeness": 0.5,
                }
            )
    scores = {
        f"exact_match,{name}": sum(s["exact_match"] for s in samples if s["filter"] == name)
        / len(numbers)
        for name in ("first-sentence", "whole")
    }
    return {
        "results": {task: {"alias": task, **scores}},
        "samples": {task: samples},
        "versions": {task: 1.0},
        "n-shot": {task: num_fewshot or 0},
    }


class _Request:
    def __init__(self, args: tuple[str, dict[str, Any]]) -> None:
        self.args = args
