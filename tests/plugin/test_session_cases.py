"""A case whose load is a trace of sessions: what its record holds, and what is gated."""

from __future__ import annotations

import json

from tests.plugin.conftest import Project

CLIENT = (
    "{dataset: sessions, dataset-file: sessions.jsonl, block-tokens: 32, warmups-per-conc: 1, "
    "rounds: 1, prompts-per-conc: null}"
)
GATES = "{prefix_hit_rate: {at-least: 0.4}, session_duration_p50: {at-most: 100}}"


def sessions(project: Project, *, caching: bool = True) -> None:
    text = (project.pytester.path / "recipes.yaml").read_text()
    text = text.replace(
        "serve: {max-model-len: 256, block-size: 128, enable-prefix-caching: false}",
        "serve: {max-model-len: 256, block-size: 32, "
        f"enable-prefix-caching: {str(caching).lower()}}}",
    ).replace("conc-list: [1, 2]", "conc-list: [2]")
    plain = "tiny-bf16-cpu-vllm: {extends: base}"
    assert plain in text
    project.recipes(
        text.replace(
            plain, f"tiny-bf16-cpu-vllm: {{extends: base, gates: {GATES}, client: {CLIENT}}}"
        )
    )
    lines = [
        {
            "session_id": f"s{number}",
            "input_length": 64 + 24 * turn,
            "output_length": 3,
            "hash_ids": [0, *(100 * number + block for block in range(1, (64 + 24 * turn) // 32))],
            "delay": 5,
        }
        for number in range(1, 4)
        for turn in range(9)
    ]
    file = project.pytester.path / "sessions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))


def test_sessions_are_replayed_held_against_their_promise_and_gated(project: Project) -> None:
    sessions(project)
    result = project.run("benchmarks", "-k", "tiny and not mtp")
    assert result.ret == 0, result.stdout.str()
    (case,) = project.cases()
    assert case["verdict"]["status"] == "PASS"
    measurement = case["measurement"]
    cache = measurement["prefix_cache"]
    assert cache["block"] == 32
    assert cache["promised"] - cache["slack"] <= cache["hits"] <= cache["most"] + cache["slack"]
    assert case["metrics"]["prefix_hit_rate"] > 0.4
    # 256 tokens have room for turns 0 to 7 of nine: 64 + 24 * 8 + 3 tokens are more
    assert [row["begin"] for row in measurement["turns"]] == list(range(8))
    (flag,) = (flag for flag in measurement["flags"] if flag["code"] == "sessions-cut")
    assert "3 sessions are too long for the model: 's1' ends before turn 8 of 9" in flag["message"]


def test_with_caching_off_no_hit_is_counted(project: Project) -> None:
    sessions(project, caching=False)
    result = project.run("benchmarks", "-k", "tiny and not mtp and throughput")
    (case,) = project.cases()
    assert case["measurement"]["prefix_cache"]["hits"] == 0
    assert case["measurement"]["invalid"] == []
    # the gate's metric is not there, and that is said
    assert "prefix_hit_rate" not in case["metrics"]
    assert result.ret == 10
    assert case["verdict"]["status"] == "INCONCLUSIVE"
    assert case["verdict"]["reason"] == "prefix_hit_rate could not be measured on launch-1"
    result.stdout.fnmatch_lines(["*turn prefix caching on*, or remove the gate*"])


def test_a_server_that_was_sent_the_same_texts_before_is_no_measure_of_them(
    project: Project,
) -> None:
    sessions(project)
    text = (project.pytester.path / "recipes.yaml").read_text()
    project.recipes(
        text.replace("conc-list: [2]", "conc-list: [1, 2]")
        .replace(f", gates: {GATES}", "")
        .replace("block-tokens: 32, ", "")
    )
    lines = [
        {
            "session_id": f"s{number}",
            "turns": [
                {"text": " ".join(f"w{number}{turn}{word}" for word in range(40))}
                | {"output_length": 3}
                for turn in range(2)
            ],
        }
        for number in range(2)
    ]
    file = project.pytester.path / "sessions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    chosen = ("benchmarks", "-k", "tiny and not mtp and throughput")
    result = project.run(*chosen)
    assert result.ret == 10, result.stdout.str()
    first, second = project.cases()
    assert first["verdict"]["status"] == "UNGATED"
    assert second["verdict"]["status"] == "INVALID"
    assert "was sent the same texts before" in second["verdict"]["reason"]
    apart = project.run(*chosen, "--gpubench-server-per=point", "--gpubench-results=apart")
    assert apart.ret == 0, apart.stdout.str()
