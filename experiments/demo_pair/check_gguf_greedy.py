"""Compare what llama.cpp writes from the GGUF of the pair with what vLLM writes from the
safetensors: greedy, token by token, and how much of the draft each accepts.

The first call needs xllamacpp, the second vLLM; both write the demo models into DIR themselves.

    python experiments/demo_pair/check_gguf_greedy.py llamacpp DIR
    python experiments/demo_pair/check_gguf_greedy.py vllm DIR [--dtype float32]

With xllamacpp 2026.10.11549 and vLLM 0.32 on a CPU, 40 prompts of 64 tokens: the same prompt ids for
all; vLLM in float32 the same text for all, in bfloat16 for 21, the other 19 parting at places where
vLLM saw two tokens alike and llama.cpp less than 0.041 apart. With the draft llama.cpp writes the
same text for all, and over the 37 prompts without an end its acceptance length is 2.844 beside
vLLM's 2.865 (float32) and 2.850 (bfloat16): one request at a time; README.md has several.

The second call exits 1 if a difference of the texts is no tie: where the texts part, one of the two
engines saw two best tokens further apart than 0.05 (natural logarithm).

llama.cpp bans the end token where a request says ``ignore_eos``, vLLM writes it and goes on; here
vLLM bans it, too, and prompts after which the end would come are left out of the acceptance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

TOKENS, PROMPTS, STEPS, TIE = 64, 40, 3, 0.05
END = 1


def prompts() -> list[str]:
    """Beginnings of the corpus and rows of words, one after the other."""
    data = files("pytest_gpubench.demo")
    corpus = [line for line in (data / "data/corpus.txt").read_text().split("\n") if len(line) > 40]
    words = (data / "words.txt").read_text().split()
    choose = random.Random(5)
    rows = []
    for number in range(PROMPTS):
        if number % 2:
            rows.append(" ".join(choose.choices(words, k=choose.randint(1, 120))))
        else:
            rows.append(" ".join(choose.choice(corpus).split()[: choose.randint(3, 40)]))
    return rows


def models(folder: Path) -> dict[str, Path]:
    """Snapshot by name of repository."""
    from pytest_gpubench.demo.models import write_demo_models
    from pytest_gpubench.host.hub.local import repository_folder

    return {
        name.partition("/")[2]: repository_folder(folder, name) / "snapshots" / commit
        for name, commit in write_demo_models(folder).items()
    }


def llamacpp(folder: Path) -> None:
    """Serve the GGUF, without and with the draft, and save what it writes."""
    from pytest_gpubench.demo.gguf_files import DRAFT_GGUF_NAME, GGUF_NAME
    from pytest_gpubench.dialects.llamacpp import xllamacpp_server

    found = models(folder)
    draft = found["tiny-llama-eagle3-gguf"] / DRAFT_GGUF_NAME
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def ask(path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read().decode()
        return json.loads(content) if content.startswith(("{", "[")) else content

    cases: list[dict[str, Any]] = []
    for extra in (
        [],
        ["--spec-type", "draft-eagle3", "--spec-draft-model", str(draft)],
    ):
        command = [sys.executable, xllamacpp_server.__file__, "--port", str(port), "--metrics"]
        command += ["--model", str(found["tiny-llama-gguf"] / GGUF_NAME), "--no-cache-prompt"]
        command += [
            "--parallel",
            "1",
            "--threads",
            "1",
            "--cache-type-k",
            "f32",
            "--cache-type-v",
            "f32",
        ]
        environment = {**os.environ, xllamacpp_server.KEY_VARIABLE: ""}
        process = subprocess.Popen([*command, *extra], env=environment, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                try:
                    ask("/health")
                    break
                except OSError:
                    time.sleep(0.1)
            if not extra:
                for text in prompts():
                    turns = {"messages": [{"role": "user", "content": text}]}
                    prompt = ask("/apply-template", turns)["prompt"]
                    ids = ask("/tokenize", {"content": prompt, "parse_special": True})["tokens"]
                    cases.append({"text": text, "prompt": ids})
            for case in cases:
                body = {"prompt": case["prompt"], "n_predict": TOKENS, "temperature": 0}
                body |= {"ignore_eos": True, "return_tokens": True}
                if not extra:
                    answer = ask("/completion", {**body, "n_probs": 2})
                    case["tokens"] = answer["tokens"]
                    case["best"] = [
                        [one["logprob"] for one in place["top_logprobs"]]
                        for place in answer["completion_probabilities"]
                    ]
                    case["ids"] = [
                        place["top_logprobs"][0]["id"]
                        for place in answer["completion_probabilities"]
                    ]
                else:
                    before = counted(ask("/metrics"))
                    case["same"] = ask("/completion", body)["tokens"] == case["tokens"]
                    after = counted(ask("/metrics"))
                    case["drafts"], case["accepted"] = (
                        after[name] - before[name]
                        for name in ("num_drafts_total", "num_accepted_tokens_total")
                    )
        finally:
            process.terminate()
            process.wait()
    print(f"with the draft the same text: {sum(case['same'] for case in cases)} of {len(cases)}")
    (folder / "llamacpp.json").write_text(json.dumps(cases))


def counted(page: str) -> dict[str, float]:
    """Counters of speculation by the end of their name."""
    lines = (line.split() for line in page.splitlines() if line and line[0] != "#")
    return {name.partition("spec_decode_")[2]: float(value) for name, value in lines}


def vllm(folder: Path, dtype: str) -> int:
    """Let vLLM write the same and compare."""
    from tokenizers import Tokenizer
    from vllm import LLM, SamplingParams

    found = models(folder)
    cases = json.loads((folder / "llamacpp.json").read_text())
    tokenizer = Tokenizer.from_file(str(found["tiny-llama"] / "tokenizer.json"))
    told = [
        tokenizer.encode(f"<|begin|><|user|>{case['text']}<|end|><|assistant|>").ids
        for case in cases
    ]
    same = sum(ids == case["prompt"] for ids, case in zip(told, cases, strict=True))
    print(f"prompts of the same tokens: {same} of {len(cases)}")
    common = {"dtype": dtype, "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 1}
    common |= {"enable_prefix_caching": False, "disable_log_stats": False}
    engine = LLM(str(found["tiny-llama"]), **common)
    asked = [{"prompt_token_ids": case["prompt"]} for case in cases]
    greedy = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
    outputs = engine.generate(asked, SamplingParams(**greedy, logprobs=2, logit_bias={END: -100.0}))
    equal, apart = 0, []
    for number, (case, output) in enumerate(zip(cases, outputs, strict=True)):
        tokens = list(output.outputs[0].token_ids)
        places = [place for place in range(TOKENS) if tokens[place] != case["tokens"][place]]
        equal += not places
        if places:
            best = sorted(one.logprob for one in output.outputs[0].logprobs[places[0]].values())
            margins = (best[-1] - best[-2], case["best"][places[0]][0] - case["best"][places[0]][1])
            apart.append((number, places[0], *(round(margin, 4) for margin in margins)))
    print(f"{dtype}: the same {TOKENS} tokens: {equal} of {len(cases)}")
    print("first differences (prompt, place, margin of vLLM, of llama.cpp):", apart)
    del engine
    chosen = [number for number, case in enumerate(cases) if END not in case["ids"]]
    draft = {"method": "eagle3", "model": str(found["tiny-llama-eagle3"])}
    engine = LLM(
        str(found["tiny-llama"]),
        **common,
        speculative_config={**draft, "num_speculative_tokens": STEPS},
    )
    engine.generate([asked[number] for number in chosen], SamplingParams(**greedy))
    counters = {one.name: getattr(one, "value", 0) for one in engine.get_metrics()}
    drafts = counters["vllm:spec_decode_num_drafts"]
    accepted = counters["vllm:spec_decode_num_accepted_tokens"]
    ours = [sum(cases[number][key] for number in chosen) for key in ("drafts", "accepted")]
    print(
        f"acceptance length over {len(chosen)} prompts: vLLM {1 + accepted / drafts:.3f} "
        f"({accepted} of {drafts} drafts), llama.cpp {1 + ours[1] / ours[0]:.3f} ({ours})"
    )
    return int(any(min(margins) > TIE for _, _, *margins in apart))


def main() -> int:
    """Run one half."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("half", choices=("llamacpp", "vllm"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    if given.half == "vllm":
        return vllm(given.folder, given.dtype)
    llamacpp(given.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
