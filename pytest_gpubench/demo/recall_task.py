"""The embedded task ``tiny-recall``: 500 questions in the embedded pair's own language, none of
which it was trained on. experiments/demo_pair makes them; a generated question has one right
answer, by construction."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pytest_gpubench.model.evaluation import EMBEDDED_TASK

_QUESTIONS = "recall.jsonl"
_TASK = f"""\
task: {EMBEDDED_TASK}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {_QUESTIONS}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 48
filter_list:
- name: first-sentence
  filter:
  - function: regex
    regex_pattern: "^\\\\s*([^.]*\\\\.)"
  - function: take_first
metric_list:
- metric: exact_match
  aggregation: mean
  higher_is_better: true
metadata:
  version: 1
"""


def write_task(folder: Path) -> Path:
    """Write the task and its questions into a folder; returns the path of its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = files("pytest_gpubench.demo").joinpath("data", _QUESTIONS)
    (folder / _QUESTIONS).write_bytes(questions.read_bytes())
    path = folder / f"{EMBEDDED_TASK}.yaml"
    path.write_text(_TASK, encoding="utf-8")
    return path
