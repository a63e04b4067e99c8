"""The keys of `client`: each reaches the workload, and what contradicts itself is one sentence at
its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_gpubench.model.cases import RecipeBook
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.model.workload import Workload, contradictions
from pytest_gpubench.recipes.schema import ClientKeys

SERVE = "serve: {block-size: 128}"


def with_client(whole: str, client: str) -> str:
    return whole.replace(SERVE, f"{SERVE}\n  client: {client}")


def workloads(load: Callable[..., RecipeBook], text: str) -> list[Workload]:
    book = load(text)
    assert book.problems == ()
    return [case.workload for case in book.cases]


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        ("{arrival: poisson, request-rate: 2.5}", {"arrival": "poisson", "request_rate": 2.5}),
        (
            "{arrival: gamma, request-rate: 1, burstiness: 0.5}",
            {"arrival": "gamma", "burstiness": 0.5, "request_rate": 1.0},
        ),
        (
            "{handover: continue, ramp: 3, duration: 60}",
            {"handover": "continue", "ramp": 3.0, "duration": 60.0},
        ),
        (
            "{interval: 0.02, interval-metric: ttft_p50}",
            {"interval": 0.02, "interval_metric": "ttft_p50"},
        ),
        ("{prefix-tokens: 100, prefix-groups: 3}", {"prefix_tokens": 100, "prefix_groups": 3}),
        (
            "{workers: 4, slo: {ttft: 0.5, e2e: 10}}",
            {"workers": 4, "slo": FrozenMap({"ttft": 0.5, "e2e": 10.0})},
        ),
        (
            "{profile: inferencex}",
            {"profile": "inferencex", "api": "completions", "chat_template": "none"},
        ),
        ("{duration: '${isl / 64}'}", {"duration": 16.0}),
        (
            "{dataset: sessions, dataset-file: t.jsonl, sessions-per-conc: 2, idle-cap: 5, "
            "block-tokens: 16}",
            {"sessions": 8, "idle_cap": 5.0, "block_tokens": 16, "handover": "drain"},
        ),
        ("{temperature: 0}", {"temperature": 0.0}),
    ],
)
def test_key_reaches_the_workload(
    load: Callable[..., RecipeBook], whole: str, client: str, wanted: dict[str, Any]
) -> None:
    text = with_client(whole, client).replace("conc-list: [4, 16]", "conc-list: [4]")
    (workload,) = workloads(load, text)
    found = {name: getattr(workload, name) for name in wanted}
    assert found == wanted
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in wanted.items()
    }


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("3", Rounds(3, 3)),
        ("2..5", Rounds(2, 5)),
        ("'${conc / 2}'", Rounds(2, 2)),
        ("'1..${conc}'", Rounds(1, 4)),
    ],
)
def test_rounds_are_those_of_the_case_and_no_part_of_its_load(
    load: Callable[..., RecipeBook], whole: str, written: str, wanted: Rounds
) -> None:
    plain = whole.replace("conc-list: [4, 16]", "conc-list: [4]")
    book = load(with_client(plain, f"{{rounds: {written}}}"))
    assert book.problems == ()
    assert [case.rounds for case in book.cases] == [wanted]
    assert [case.workload for case in book.cases] == workloads(load, plain)


@pytest.mark.parametrize("written", ["0", "8..2", "'${conc * 1000}'", "1.5", "often"])
def test_rounds_that_are_none_are_refused_at_their_key(
    load: Callable[..., RecipeBook], whole: str, written: str
) -> None:
    problems = load(with_client(whole, f"{{rounds: {written}}}")).problems
    assert problems
    assert all(one.path.endswith("client.rounds") for one in problems)
    assert all("such as 1..8" in one.message for one in problems)


def test_every_key_of_the_schema_is_a_field_of_the_workload() -> None:
    known = {item.name for item in fields(Workload)} | {
        "prompts_per_conc",
        "warmups_per_conc",
        "sessions_per_conc",
        "rounds",
        *("scenario", "arguments"),  # of the tool
    }
    assert set(ClientKeys.model_fields) <= known


def test_turns_need_a_context_that_holds_them(load: Callable[..., RecipeBook], whole: str) -> None:
    text = with_client(whole, "{turns: 2, think-time: 1}")
    (problem,) = {
        f"{p.position.line}:{p.position.column}: {p.path}: {p.message}" for p in load(text).problems
    }
    assert problem.startswith(
        "14:19: m-fp8-h100-vllm.client.turns: 2 turns of isl 1024 and osl 1024 grow to 4096 tokens"
    )
    assert problem.endswith("the server takes 2304; raise serve.max-model-len")
    enough = text.replace(SERVE, "serve: {block-size: 128, max-model-len: 4096}")
    assert {workload.turns for workload in workloads(load, enough)} == {2}


def test_rate_is_the_id_and_must_differ(load: Callable[..., RecipeBook], whole: str) -> None:
    book = load(with_client(whole, '{arrival: poisson, request-rate: "${conc / 1.6}"}'))
    assert [case.id.partition(":")[2] for case in book.cases] == ["1k1k-r2.5", "1k1k-r10"]
    assert [case.tags[-1] for case in book.cases] == ["r2.5", "r10"]
    same = load(with_client(whole, "{arrival: poisson, request-rate: 2.5}"))
    assert [case.id.partition(":")[2] for case in same.cases] == ["1k1k-r2.5"]
    assert [str(problem.message) for problem in same.problems] == [
        "conc 16 has the same rate as conc 4 (1k1k-r2.5); write a rate that reads conc, or one conc"
    ]


@pytest.mark.parametrize(
    ("client", "place", "words"),
    [
        (
            "{arival: poisson}",
            "14:12: m-fp8-h100-vllm.client.arival",
            "unknown key 'arival'; did you mean 'arrival'?",
        ),
        ("{arrival: poison}", "14:21: m-fp8-h100-vllm.client.arrival", "did you mean 'poisson'?"),
        ("{arrival: poisson}", "14:21: m-fp8-h100-vllm.client.arrival", "needs request-rate"),
        (
            "{request-rate: 2}",
            "14:26: m-fp8-h100-vllm.client.request-rate",
            "no meaning with arrival closed; add `arrival",
        ),
        (
            "{arrival: poisson, request-rate: 0}",
            "14:44: m-fp8-h100-vllm.client.request-rate",
            "a number from 0.001",
        ),
        ("{burstiness: 2}", "14:24: m-fp8-h100-vllm.client.burstiness", "use `arrival: gamma`"),
        (
            "{handover: go}",
            "14:22: m-fp8-h100-vllm.client.handover",
            "must be 'drain' or 'continue'",
        ),
        ("{duration: 0}", "14:22: m-fp8-h100-vllm.client.duration", "from 0.001"),
        (
            "{duration: 1 min}",
            "14:22: m-fp8-h100-vllm.client.duration",
            "must be a number or a ${...} expression",
        ),
        (
            "{interval: 2}",
            "14:22: m-fp8-h100-vllm.client.interval",
            "a number from 0.0001 to 0.9999",
        ),
        (
            "{interval-metric: ttft_p50}",
            "14:29: m-fp8-h100-vllm.client.interval-metric",
            "no effect without interval",
        ),
        (
            "{interval: 0.1, interval-metric: ttft}",
            "14:44: m-fp8-h100-vllm.client.interval-metric",
            "no metric is named 'ttft'",
        ),
        (
            "{interval: 0.1, interval-metric: engine_init}",
            "14:44: m-fp8-h100-vllm.client.interval-metric",
            "cannot be followed",
        ),
        (
            "{dataset: sessions, dataset-file: t.jsonl, prompts-per-conc: 3}",
            "14:72: m-fp8-h100-vllm.client.prompts-per-conc",
            "is replayed turn by turn; write sessions-per-conc",
        ),
        (
            "{idle-cap: 3}",
            "14:22: m-fp8-h100-vllm.client.idle-cap",
            "is for traces of sessions; add `dataset: sessions`",
        ),
        (
            "{dataset: wikitext}",
            "14:21: m-fp8-h100-vllm.client.dataset",
            "must be 'random', 'text', 'sharegpt', ",
        ),
        (
            "{dataset: sharegpt}",
            "14:21: m-fp8-h100-vllm.client.dataset",
            "needs dataset-file, a path relative to the recipe file",
        ),
        (
            "{dataset: sharegpt, dataset-file: 'hf://org/chats.json'}",
            "14:45: m-fp8-h100-vllm.client.dataset-file",
            "is no address of a data set's file; write hf://datasets/ORG/NAME/FILE",
        ),
        (
            "{dataset-file: x}",
            "14:26: m-fp8-h100-vllm.client.dataset-file",
            "dataset random reads no file",
        ),
        (
            "{dataset: trace, dataset-file: x}",
            "14:11: m-fp8-h100-vllm.client.arrival",
            "belong together",
        ),
        (
            "{prefix-groups: 2}",
            "14:27: m-fp8-h100-vllm.client.prefix-groups",
            "no effect without prefix-tokens",
        ),
        (
            "{prefix-tokens: 2000}",
            "14:27: m-fp8-h100-vllm.client.prefix-tokens",
            "leaves nothing of isl 1024",
        ),
        (
            "{think-time: 2}",
            "14:24: m-fp8-h100-vllm.client.think-time",
            "between the turns of a conversation; add turns",
        ),
        ("{time-scale: 2}", "14:24: m-fp8-h100-vllm.client.time-scale", "use `dataset: trace`"),
        (
            "{workers: 8}",
            "14:21: m-fp8-h100-vllm.client.workers",
            "8 workers cannot share a concurrency of 4",
        ),
        ("{slo: {ttf: 1}}", "14:18: m-fp8-h100-vllm.client.slo.ttf", "did you mean 'ttft'?"),
        ("{slo: {ttft: -1}}", "14:24: m-fp8-h100-vllm.client.slo.ttft", "from 0.001"),
        (
            "{profile: inferencex, api: chat}",
            "14:38: m-fp8-h100-vllm.client.api",
            "profile inferencex means api completions",
        ),
        (
            "{profile: inferencex, dataset: text}",
            "14:42: m-fp8-h100-vllm.client.dataset",
            "means dataset random; remove this key",
        ),
        (
            "{profile: inferencex, chat-template: server}",
            "14:48: m-fp8-h100-vllm.client.chat-template",
            "for a draft only",
        ),
        (
            "{profile: inferenceX}",
            "14:21: m-fp8-h100-vllm.client.profile",
            "did you mean 'inferencex'?",
        ),
        (
            "{api: completions, chat-template: none, chat-template-kwargs: {a: 1}}",
            "14:73: ",
            "no chat template is applied",
        ),
    ],
)
def test_wrong_key_is_one_sentence_at_its_place(
    load: Callable[..., RecipeBook], whole: str, client: str, place: str, words: str
) -> None:
    found = {str(p).partition("r0.yaml:")[2] for p in load(with_client(whole, client)).problems}
    ours = [problem for problem in found if problem.startswith(place)]
    assert len(ours) == 1, found
    assert words in ours[0]


def test_dataset_file_is_relative_to_the_file_that_names_it(
    load: Callable[..., RecipeBook], whole: str, tmp_path: Path
) -> None:
    (workload, _) = workloads(
        load, with_client(whole, "{dataset: jsonl, dataset-file: data/asked.jsonl}")
    )
    assert Path(workload.dataset_file) == tmp_path / "data" / "asked.jsonl"


KEYS = {
    "profile": st.sampled_from(["inferencex", "gpubench"]),
    "api": st.sampled_from(["chat", "completions"]),
    "chat-template": st.sampled_from(["server", "none"]),
    "arrival": st.sampled_from(["closed", "constant", "poisson", "gamma", "trace"]),
    "request-rate": st.sampled_from([0.5, 2, "${conc / 2}", "${conc - 3.5}"]),
    "burstiness": st.sampled_from([1, 0.5]),
    "dataset": st.sampled_from(["random", "text", "sharegpt", "jsonl", "trace"]),
    "dataset-file": st.sampled_from(["a.jsonl", "${conc}", "\0", "~x"]),
    "handover": st.sampled_from(["drain", "continue"]),
    "ramp": st.sampled_from([0, 1.5]),
    "turns": st.sampled_from([1, 2, 10_000]),
    "think-time": st.sampled_from([0, 1]),
    "prefix-tokens": st.sampled_from([0, 10, 5000]),
    "prefix-groups": st.sampled_from([1, 7]),
    "interval": st.sampled_from([0.01, 0.5]),
    "interval-metric": st.sampled_from(["output_tput", "ttft_p99", "acceptance_length"]),
    "duration": st.sampled_from([1, "${isl}"]),
    "time-scale": st.sampled_from([1, 0.1]),
    "workers": st.sampled_from([1, 4, 100]),
    "slo": st.sampled_from([{"ttft": 1}, {}, {"tpot": "${conc}"}]),
    "warmups-per-conc": st.sampled_from([0, 2]),
}


@given(client=st.fixed_dictionaries({}, optional=KEYS))
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_section_is_refused_with_a_sentence_or_sound(
    load: Callable[..., RecipeBook], whole: str, client: dict[str, Any]
) -> None:
    book = load(with_client(whole, json.dumps(client)))
    assert all(problem.message and problem.position.line >= 12 for problem in book.problems)
    assert len({case.id for case in book.cases}) == len(book.cases)
    assert book.problems or len(book.cases) == 2
    for case in book.cases:
        assert contradictions(case.workload) == ()
        assert hash(case.workload) == hash(case.workload)
