"""What each engine's dialect says, against real logs, pages and answers; and that no other room
knows an engine's words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from pytest_gpubench.dialects import registry
from pytest_gpubench.dialects.command_line import KEY_FILE, PORT, WEIGHTS
from pytest_gpubench.dialects.dialect import Answers
from pytest_gpubench.dialects.engine_facts import EngineFacts
from pytest_gpubench.dialects.llamacpp import DIALECT as LLAMACPP
from pytest_gpubench.dialects.metrics_page import parse_metrics
from pytest_gpubench.dialects.registry import common_rules, dialect_of, every_dialect, frameworks
from pytest_gpubench.dialects.sglang import DIALECT as SGLANG
from pytest_gpubench.doctor.rules import examine
from pytest_gpubench.engines.diagnosis import Ending, classify
from pytest_gpubench.engines.engine import check_engine
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology
from tests.doctor.doctor_support import case

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[2]
DRAFT = Speculative("eagle3", 3, "org/draft", attention_backend="triton")


def sglang_spec(serve: dict[str, Any] | None = None, **more: Any) -> ServerSpec:
    topology = more.pop("topology", Topology())
    flags = FrozenMap({"context-length": 512, **(serve or {})})
    return ServerSpec("sglang", "org/model", "h100", topology, flags, **more)


def sglang_facts(**changes: Any) -> EngineFacts:
    info = json.loads((DATA / "sglang" / "server_info.json").read_text()) | changes
    page = (DATA / "sglang" / "metrics.txt").read_text()
    ask: Callable[[str], Any] = {"/server_info": info}.get
    return SGLANG.complete(EngineFacts(), Answers({"max_model_len": 512}, page, ask))


def test_no_other_room_knows_an_engines_words() -> None:
    """Their folders, the doctor's rules, the registry, the option of that name, the exports that
    carry a name, the formats of the embedded models, the formats of their projects that are imported,
    and the stand-in that speaks vLLM's may."""
    allowed = re.compile(
        r"dialects/(vllm|sglang|llamacpp)/|dialects/registry\.py|dialects/__init__\.py|doctor/"
        r"|report/exports_json\.py|commands/reports\.py|load/loopback/|demo/"
        r"|plugin/(options|resolve_settings)\.py|cli\.py"
        r"|recipes/importing/(official_entries|official_nodes|perf_eval)\.py|commands/importing_recipes\.py"
    )
    words = re.compile(r"vllm|sglang|llama\.?cpp", re.IGNORECASE)
    examples = re.compile(
        r"for instance|before its pull request 16109|h100-vllm|vllm-burstiness"  # a flag of AIPerf
    )
    found = []
    for path in sorted((ROOT / "pytest_gpubench").rglob("*.py")):
        name = path.relative_to(ROOT / "pytest_gpubench").as_posix()
        if allowed.search(name):
            continue
        found += [
            f"{name}:{number}: {line.strip()}"
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if words.search(line) and not examples.search(line)
        ]
    assert found == []


class TestSglang:
    def test_a_command_line(self) -> None:
        spec = sglang_spec(
            {"disable-radix-cache": True, "attention-backend": "triton"}, speculative=DRAFT
        )
        line = SGLANG.render(spec, ("sglang", "serve"), served_name="x")
        assert " ".join(line.argv) == (
            "sglang serve --model-path org/model --tp-size 1 --context-length 512 "
            "--disable-radix-cache --attention-backend triton --speculative-algorithm EAGLE3 "
            "--speculative-draft-model-path org/draft --speculative-num-steps 3 "
            "--speculative-eagle-topk 1 --speculative-num-draft-tokens 4 "
            "--speculative-draft-attention-backend triton --host 127.0.0.1 --port {port} "
            "--served-model-name x --enable-metrics --config {key-file}"
        )
        assert line.printable_env()["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
        assert line.filled({PORT: "1", KEY_FILE: "/k"})[-1] == "/k"

    @pytest.mark.parametrize(
        ("topology", "words"),
        [
            (Topology(tp=8), "--tp-size 8"),
            (Topology(tp=8, ep=8), "--tp-size 8 --ep-size 8"),
            (Topology(tp=8, ep=4), "--tp-size 8 --ep-size 4"),
            (
                Topology(tp=8, ep=8, dp_attn=True),
                "--tp-size 8 --dp-size 8 --enable-dp-attention --ep-size 8",
            ),
            (Topology(tp=4, pp=2), "--tp-size 4 --pp-size 2"),
        ],
    )
    def test_parallelism(self, topology: Topology, words: str) -> None:
        line = SGLANG.render(sglang_spec(topology=topology), ("sglang", "serve"), served_name="x")
        assert f" {words} --context-length" in " ".join(line.argv)

    def test_the_key_is_in_a_file_and_in_nothing_else(self) -> None:
        delivery = SGLANG.key("secret")
        assert (delivery.env, delivery.file) == ({}, "api-key: secret\n")
        facts = sglang_facts()
        assert "sk-planted-key" not in repr(facts)

    def test_facts_of_a_real_server(self) -> None:
        facts = sglang_facts()
        assert (facts.version, facts.device, facts.kv_cache_tokens) == ("0.5.17", "cuda", 12302956)
        assert (facts.max_model_len, facts.block_size) == (512, 1)
        assert facts.enable_prefix_caching is False
        assert facts.weights_gib == pytest.approx(0.006)
        assert facts.capture_gib == pytest.approx(0.191)

    def test_capture_as_newer_ones_tell_of_it(self) -> None:
        """SGLang 0.5.23; a draft's pool is not the server's."""
        reader = SGLANG.log.reader()
        for text in (
            "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 900, KV size: 1.00 GB",
            "draft KV Cache is allocated. dtype: torch.bfloat16, #tokens: 100, KV size: 0.10 GB",
            "Capture target verify CUDA graph begin. backend=full, num_tokens_per_req=4, avail mem="
            "9.50 GB",
            "Capture target verify CUDA graph end. bs=[1, 2, 4], elapsed=2.50 s, mem usage=0.50 GB",
            "Capture draft decode CUDA graph end. elapsed=1.25 s, mem usage=0.10 GB.",
        ):
            reader.feed(f"[2026-11-28 04:16:52 TP0] {text}")
        facts = reader.facts()
        assert (facts.kv_cache_tokens, facts.capture_sizes) == (900, (1, 2, 4))
        assert dict(facts.phases) == {"graph_capture": 3.75}

    def test_every_flag_that_the_server_names_must_be_equal(self) -> None:
        asked = {
            "attention-backend": "fa3",
            "disable-radix-cache": True,
            "mem-fraction-static": 0.3,
            "cuda-graph-max-bs": 64,
        }
        facts = sglang_facts()
        good = check_engine(sglang_spec(asked), facts, served_name="tiny")
        assert [text for text in good.deviations if "served name" not in text] == []
        assert set(asked) <= set(good.checked)
        for flag, other in (("attention-backend", "triton"), ("cuda-graph-max-bs", 32)):
            bad = check_engine(sglang_spec({flag: other}), facts, served_name="tiny")
            assert any(text.startswith(f"{flag}: ") for text in bad.deviations)

    def test_a_draft_is_checked(self) -> None:
        running = {
            "speculative_algorithm": "EAGLE3",
            "speculative_num_steps": 3,
            "speculative_eagle_topk": 1,
            "speculative_num_draft_tokens": 4,
            "speculative_draft_attention_backend": "triton",
        }
        spec = sglang_spec(speculative=DRAFT)

        def deviations(**changes: Any) -> list[str]:
            facts = sglang_facts(**{**running, **changes})
            found = check_engine(spec, facts, served_name="x").deviations
            return [text for text in found if "served name" not in text]

        assert deviations() == []
        assert deviations(speculative_num_steps=2)
        assert deviations(speculative_algorithm=None)
        without = check_engine(sglang_spec(), sglang_facts(**running), served_name="x")
        assert any(text.startswith("speculative decoding") for text in without.deviations)

    def test_the_log_of_a_real_start(self) -> None:
        reader = SGLANG.log.reader()
        for line in (DATA / "sglang" / "ready.log").read_text().splitlines():
            reader.feed(line)
        facts = reader.facts()
        assert facts.kv_cache_tokens == 12302956
        assert facts.capture_sizes == (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64)
        assert facts.phases["weights"] == 0.09
        assert facts.phases["graph_capture"] == pytest.approx(4.82)

    def test_a_real_death_is_named_at_the_line(self) -> None:
        lines = (DATA / "sglang" / "died-tapped-layers.log").read_text().splitlines()
        failure = classify(lines, Ending("fatal-line"), SGLANG.log)
        assert (failure.cause, failure.failure_class) == ("draft-tapped-layers", "recipe")
        fatal = next(
            number
            for number, line in enumerate(lines)
            if SGLANG.log.fatal.search(SGLANG.log.parse(line).text)
        )
        assert "Scheduler hit an exception" in lines[fatal]

    def test_nothing_is_fatal_in_a_start_that_went_well(self) -> None:
        lines = (DATA / "sglang" / "ready.log").read_text().splitlines()
        served = lines[: next(i for i, line in enumerate(lines) if "SIGTERM received" in line)]
        assert [x for x in served if SGLANG.log.fatal.search(SGLANG.log.parse(x).text)] == []

    def test_the_counters_of_a_real_page(self) -> None:
        page = parse_metrics((DATA / "sglang" / "metrics.txt").read_text())
        names = SGLANG.counters
        assert page.total(names.running) == page.total(names.waiting) == 0
        assert names.generated_tokens is not None
        assert page.total(names.generated_tokens) == 32
        assert [page.total(name) for name in names.live_tokens] == [33]
        assert page.nonsense(names) == ""  # a gauge of its own is NaN

    def test_a_draft_that_it_does_not_have(self) -> None:
        assert "no method 'dflash'" in str(SGLANG.draft_error(Speculative("dflash", 3)))
        odd = Speculative("eagle3", 3, options=FrozenMap({"enforce_eager": True}))
        assert "enforce-eager" in str(SGLANG.draft_error(odd))
        tree = Speculative("eagle3", 3, options=FrozenMap({"topk": 4, "draft_tokens": 16}))
        assert SGLANG.draft_error(tree) is None

    @pytest.mark.parametrize(
        ("serve", "draft", "config", "rule"),
        [
            ({}, DRAFT, {}, "sglang-running-below-concurrency"),
            ({"cuda-graph-max-bs-decode": 8}, None, {}, "sglang-capture-below-concurrency"),
            ({"cuda-graph-max-bs": 64}, None, {}, "sglang-renamed-flag"),
            (
                {"max-running-requests": 64},
                Speculative("eagle3", 3, "d", options=FrozenMap({"draft_tokens": 8})),
                {},
                "sglang-chain-tokens",
            ),
            (
                {"max-running-requests": 64},
                DRAFT,
                {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]},
                "sglang-tapped-layers",
            ),
        ],
    )
    def test_the_doctor(
        self,
        serve: dict[str, Any],
        draft: Speculative | None,
        config: dict[str, Any],
        rule: str,
    ) -> None:
        spec = sglang_spec(serve, speculative=draft)
        found = examine(
            spec, [case(64)], hardware=HARDWARE["h100"], draft={"num_hidden_layers": 1, **config}
        )
        assert rule in {finding.rule for finding in found}
        ill = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}}
        healed = sglang_spec(
            {"cuda-graph-max-bs-decode": 64, "max-running-requests": 64}, speculative=DRAFT
        )
        left = examine(healed, [case(64)], hardware=HARDWARE["h100"], draft={**config, **ill})
        assert {finding.rule for finding in left if finding.rule.startswith("sglang")} == set()


class TestLlamacpp:
    def spec(self, **serve: Any) -> ServerSpec:
        return ServerSpec("llamacpp", "org/model", "cpu", Topology(), FrozenMap(serve))

    def test_a_command_line(self) -> None:
        spec = self.spec(**{"ctx-size": 2048, "cache-prompt": False, "hf-file": "x.gguf"})
        line = LLAMACPP.render(spec, ("llama-server",), served_name="x")
        assert " ".join(line.argv) == (
            "llama-server --model {weights} --ctx-size 2048 --no-cache-prompt --host 127.0.0.1 "
            "--port {port} --alias x --metrics"
        )
        assert line.filled({PORT: "1", WEIGHTS: "/w.gguf"})[2] == "/w.gguf"
        assert dict(LLAMACPP.key("secret").env) == {"LLAMA_API_KEY": "secret"}

    @pytest.mark.parametrize(
        ("names", "serve", "chosen"),
        [
            (["a.gguf", "config.json"], {}, "a.gguf"),
            (["a.gguf", "b.gguf"], {}, None),
            (["a.gguf", "b.gguf"], {"hf-file": "b.gguf"}, "b.gguf"),
            (["a.gguf"], {"hf-file": "c.gguf"}, None),
            (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], {}, "m-00001-of-00002.gguf"),
            ([], {}, None),
        ],
    )
    def test_which_file(self, names: list[str], serve: dict[str, str], chosen: str | None) -> None:
        assert LLAMACPP.weights_file(names, self.spec(**serve)) == chosen

    @pytest.mark.parametrize(
        ("log", "cause"),
        [
            ("died-missing-model.log", "missing-snapshot"),
            ("died-not-gguf.log", "corrupt-snapshot"),
            ("died-truncated.log", "corrupt-snapshot"),
            ("died-port.log", "port-in-use"),
            ("died-unknown-flag.log", "wrong-argument"),
            ("died-kv-rlimit.log", "kv-cache-too-small"),
        ],
    )
    def test_real_deaths(self, log: str, cause: str) -> None:
        lines = (DATA / "llamacpp" / log).read_text().splitlines()
        assert classify(lines, Ending("exited", 1), LLAMACPP.log).cause == cause

    def test_one_divided_by_what_it_has(self) -> None:
        assert LLAMACPP.topology_error(Topology(tp=2)) is None
        assert LLAMACPP.topology_error(Topology(tp=8, ep=8)) is not None
        assert LLAMACPP.topology_error(Topology(tp=2, pp=2)) is not None

    def test_tokens_of_a_chat_are_asked_in_two_steps(self) -> None:
        first = LLAMACPP.tokenize_chat("m", [{"role": "user", "content": "hi"}], {})
        assert first.path == "/apply-template"
        assert first.then is not None
        second = first.then({"prompt": "<user>hi"})
        assert (second.path, second.body["content"]) == ("/tokenize", "<user>hi")
        assert LLAMACPP.tokens({"tokens": [1, 2, 3]}) == (3, [1, 2, 3])


OURS = ("vllm", "sglang", "llamacpp")


class TestRegistry:
    def test_words_that_no_recipe_may_set_in_any_engine(self) -> None:
        rules = common_rules()
        for word in ("port", "host", "tensor-parallel-size", "tp-size", "alias", "api-key"):
            assert rules.our_flag(word)
        assert rules.our_flag("block-size") is None

    def test_each_engine_says_what_the_rest_counts_on(self) -> None:
        for dialect in every_dialect():
            assert dialect.name in frameworks()
            assert dialect.owners
            assert dialect.distributions
            assert dialect.counters.rate
            assert dialect.counters.running.startswith(dialect.counters.prefix)
            assert dialect.flags.our_flag(dialect.flags.length) is None
            assert dialect.example

    def test_another_package_brings_an_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        point = EntryPoint("mine", "tests.engines.my_engine:DIALECT", registry.GROUP)
        broken = EntryPoint("broken", "no.such.module:X", registry.GROUP)
        none = EntryPoint("none", "tests.engines.my_engine:NONE", registry.GROUP)
        ours = EntryPoint("vllm", "tests.engines.my_engine:DIALECT", registry.GROUP)
        silent = EntryPoint("silent", "tests.engines.my_engine:SILENT", registry.GROUP)
        listed = [point, broken, none, silent, ours]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: listed)
        for cached in (registry._places, registry.dialect_of):
            cached.cache_clear()
        try:
            assert dialect_of("mine").title == "Mine"
            assert dialect_of("vllm").title == "vLLM"
            assert "mine" in frameworks()
            assert [dialect.name for dialect in every_dialect()] == [*OURS, "mine"]
            with pytest.raises(GpubenchError, match="does not say its owners, distributions"):
                dialect_of("silent")
            with pytest.raises(GpubenchError, match="cannot be loaded from no"):
                dialect_of("broken")
            with pytest.raises(GpubenchError, match="is no Dialect"):
                dialect_of("none")
            with pytest.raises(GpubenchError, match="no engine is called 'other'"):
                dialect_of("other")
        finally:
            monkeypatch.undo()
            for cached in (registry._places, registry.dialect_of):
                cached.cache_clear()
