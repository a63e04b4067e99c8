"""Whether our evaluation and lm-eval's own client judge every question alike, and a data set in the
form of GSM8K on the same path, offline.

    python experiments/accuracy/same.py > experiments/accuracy/results/same.md

In an interpreter with lm-eval, its extra ``api`` and xllamacpp. llama.cpp serves the embedded model
once; the same 200 questions are asked of it by ``lm_eval.simple_evaluate`` with its own
``local-chat-completions``, and by our process. Then the stub engine, which can add, is asked sums
in GSM8K's form (``question``, ``answer`` ending in ``#### n``; train and test), with lm-eval's own
GSM8K task over local files: 5 shots, both filters.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

from pytest_gpubench.demo.models import write_task
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.engines.interpreter import default_command
from pytest_gpubench.engines.log_sink import LogSink
from pytest_gpubench.evals.answered import read_answered
from pytest_gpubench.evals.evaluating import run_lm_eval
from pytest_gpubench.evals.lm_eval_run import EvalPlan
from pytest_gpubench.model.evaluation import Evaluation
from pytest_gpubench.recipes.loading import load_recipes
from pytest_gpubench.runs.model_files import fetch_weights, weights_files
from tests.engines import conformance
from tests.engines.conformance import Subject

QUESTIONS = 200
GSM8K = """\
task: gsm8k-form
dataset_path: json
dataset_kwargs:
  data_files: {train: train.jsonl, test: test.jsonl}
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
metric_list:
- {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true,
   ignore_punctuation: false, regexes_to_ignore: [",", "\\\\$", "(?s).*#### ", "\\\\.$"]}
generation_kwargs: {until: ["Question:", "</s>", "<|im_end|>"], do_sample: false}
num_fewshot: 5
filter_list:
- name: strict-match
  filter:
  - {function: regex, regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"}
  - {function: take_first}
- name: flexible-extract
  filter:
  - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
  - {function: take_first}
metadata: {version: 3.0}
"""
"""Keys and patterns are those of lm-eval's gsm8k.yaml (release 0.4.13), which names a data set of the
hub in their place."""


def ours(engine: Any, task: Path, folder: Path, shots: int, name: str) -> Any:
    """The questions, asked as a run asks them."""
    plan = EvalPlan(
        base_url=engine.base_url,
        model=engine.served_name,
        task=str(task),
        folder=str(folder),
        shots=shots,
        limit=QUESTIONS,
        concurrency=8,
        max_tokens=48,
    )
    log = LogSink(folder / "log", dialect_of("vllm").log, [])
    run_lm_eval(plan, log, api_key=engine.api_key, cwd=task.parent)
    return read_answered(folder, Evaluation(str(task), task.stem, task.stem, filter=name))


def theirs(engine: Any, task: Path) -> dict[int, float]:
    """By question what lm-eval's own client and judge make of it."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    os.environ["OPENAI_API_KEY"] = engine.api_key or "none"
    os.chdir(task.parent)
    found = lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args={
            "model": engine.served_name,
            "base_url": f"{engine.base_url}/chat/completions",
            "num_concurrent": 8,
            "max_gen_toks": 48,
        },
        tasks=[task.stem],
        num_fewshot=0,
        limit=QUESTIONS,
        apply_chat_template=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
    )
    return {sample["doc_id"]: sample["exact_match"] for sample in found["samples"][task.stem]}


def subject(key: str, command: tuple[str, ...] = ()) -> Subject:
    """A server of recipes.yaml."""
    spec = load_recipes([ROOT / "recipes.yaml"]).server(key)
    fetch_weights(spec, None)
    command = command or default_command(dialect_of(spec.framework))
    return Subject(spec, command, weights=weights_files(spec, None), limit=420.0, osl=48)


def main() -> None:
    """Print what was found."""
    with tempfile.TemporaryDirectory(prefix="same-") as name:
        folder = Path(name)
        task = write_task(folder / "task")
        with conformance.running(subject("tiny-f32-cpu-llamacpp-tp1"), folder / "server.log") as it:
            mine = ours(it, task, folder / "ours", 0, "first-sentence")
            other = theirs(it, task)
        pairs = [(one.right, other[index] == 1) for index, one in enumerate(mine.questions)]
        alike = sum(a == b for a, b in pairs)
        print(f"tiny-recall on llama.cpp, {len(pairs)} questions: ours {mine.right} right,")
        print(f"lm-eval's own client {sum(b for _, b in pairs)} right, {alike} judged alike.")
        data = folder / "gsm8k"
        data.mkdir()
        for split, first in (("train", 1000), ("test", 10)):
            lines = [
                {
                    "question": f"What is {n} + {2 * n}?",
                    "answer": f"We add them.\n{n} + {2 * n} = <<{n}+{2 * n}={3 * n}>>{3 * n}\n#### {3 * n}",
                }
                for n in range(first, first + 300)
            ]
            (data / f"{split}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        (data / "gsm8k-form.yaml").write_text(GSM8K)
        stub = (sys.executable, str(ROOT / "tests" / "stub_engine.py"), "serve")
        with conformance.running(subject("tiny-bf16-cpu-vllm-tp1", stub), folder / "s.log") as it:
            for way in ("strict-match", "flexible-extract"):
                found = ours(it, data / "gsm8k-form.yaml", folder / way, 5, way)
                print(
                    f"\nGSM8K's form, {way}, 5 shots: {found.right} of {len(found.questions)} right."
                )
                print(
                    f"{len(json.loads(json.dumps(found.questions[0].prompt)))} messages a prompt."
                )


if __name__ == "__main__":
    main()
