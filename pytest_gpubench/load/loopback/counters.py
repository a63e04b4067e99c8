"""What the loopback server counts, and its ``/metrics`` page in vLLM's names. Standard library only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Live counters of a loopback server; every change is made on its event loop."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    running: int = 0
    waiting: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Finished requests by finish reason."""
    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)

    def count_draft(self, proposed: int, accepted: int) -> None:
        """One verification step: ``accepted`` of ``proposed`` draft tokens were right, from the first position on."""
        self.drafts += 1
        self.draft_tokens += proposed
        self.accepted_tokens += accepted
        missing = proposed - len(self.accepted_per_position)
        self.accepted_per_position.extend([0] * max(0, missing))
        for position in range(accepted):
            self.accepted_per_position[position] += 1

    def metrics_text(self, model: str, *, speculative: bool) -> str:
        """The ``/metrics`` page (Prometheus text format) with vLLM's names and labels."""
        labels = f'engine="0",model_name="{model}"'
        # As of one process: pages of several lack it.
        lines = ["# HELP python_info Python platform information", "# TYPE python_info gauge", "python_info 1.0"]

        def put(name: str, kind: str, values: dict[str, float]) -> None:
            lines.append(f"# HELP {name} {name}")
            lines.append(f"# TYPE {name} {kind}")
            lines.extend(f"{name}{{{labels}{extra}}} {float(value)}" for extra, value in values.items())

        put("vllm:num_requests_running", "gauge", {"": self.running})
        put("vllm:num_requests_waiting", "gauge", {"": self.waiting})
        put("vllm:num_preemptions_total", "counter", {"": self.preemptions})
        put("vllm:prompt_tokens_total", "counter", {"": self.prompt_tokens})
        put("vllm:generation_tokens_total", "counter", {"": self.generation_tokens})
        put("vllm:prefix_cache_queries_total", "counter", {"": self.prefix_cache_queries})
        put("vllm:prefix_cache_hits_total", "counter", {"": self.prefix_cache_hits})
        reasons = {reason: self.finished[reason] for reason in ("stop", "length", "abort", "error")}
        put("vllm:request_success_total", "counter", {f',finished_reason="{reason}"': n for reason, n in reasons.items()})
        if speculative:
            put("vllm:spec_decode_num_drafts_total", "counter", {"": self.drafts})
            put("vllm:spec_decode_num_draft_tokens_total", "counter", {"": self.draft_tokens})
            put("vllm:spec_decode_num_accepted_tokens_total", "counter", {"": self.accepted_tokens})
            positions = {f',position="{i}"': n for i, n in enumerate(self.accepted_per_position)}
            put("vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter", dict(positions))
        return "\n".join(lines) + "\n"


def word_tokens(text: str) -> list[int]:
    """The loopback server's toy tokenizer: every word is cut into pieces of three characters, each piece one token.

    A piece is a number in base 95 (printable ASCII); other characters count as ``?``. ``words_text`` is its inverse up to spaces.
    """
    tokens = []
    for word in text.split():
        for start in range(0, len(word), 3):
            number = 0
            for char in word[start : start + 3].ljust(3):
                code = ord(char) - 32
                number = number * 95 + (code if 0 <= code < 95 else ord("?") - 32)
            tokens.append(number)
    return tokens


def count_word_tokens(text: str) -> int:
    """``len(word_tokens(text))``, cheaply."""
    return sum((len(word) + 2) // 3 for word in text.split())


def words_text(tokens: list[int]) -> str:
    """Text of which ``word_tokens`` makes the same tokens again; pieces are separated by spaces."""
    pieces = []
    for token in tokens:
        chars = [chr(32 + token // 95**power % 95) for power in (2, 1, 0)]
        pieces.append("".join(chars).strip())
    return " ".join(pieces)
