"""The published acceptance lengths."""

from __future__ import annotations

import pytest

from pytest_gpubench.model.acceptance_curves import CURVES, published_length, thinks
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.specs import Speculative


def test_all_nine_are_there() -> None:
    assert len({curve.file for curve in CURVES}) == len({curve.run for curve in CURVES}) == 9
    for curve in CURVES:
        assert len(curve.thinking) == 8
        assert len(curve.plain) in (0, 8)
        lengths = [*enumerate(curve.thinking, 1), *enumerate(curve.plain, 1)]
        assert all(1 <= length <= tokens + 1 for tokens, length in lengths)


@pytest.mark.parametrize(
    ("method", "draft", "sampled", "model", "tokens", "thinking", "length"),
    [
        ("mtp", None, "", "deepseek-ai/DeepSeek-V4-Pro", 3, True, 2.49),
        ("mtp", None, "", "deepseek-ai/DeepSeek-V4-Pro", 3, False, 2.97),
        ("mtp", None, "", "nvidia/GLM-5.2-NVFP4", 8, True, 4.06),
        ("mtp", None, "", "nvidia/GLM-5.2-NVFP4", 8, False, None),
        ("mtp", None, "", "Qwen/Qwen3.5-397B-A17B-FP8", 2, True, 2.73),
        ("mtp", None, "", "Qwen/Qwen3.5-7B", 2, True, None),
        ("mtp", None, "", "", 2, True, None),
        ("eagle3", "lightseekorg/kimi-k2.5-eagle3-mla", "", "m", 1, False, 1.80),
        ("eagle3", "Inferact/MiniMax-M3-EAGLE3-GQA", "", "m", 4, True, 3.02),
        ("eagle3", "Inferact/MiniMax-M3-EAGLE3", "", "m", 9, True, None),
        ("dspark", "Inferact/Kimi-K3-DSpark", "", "m", 7, True, 3.78),
        ("dspark", "Inferact/Kimi-K3-DSpark", "greedy", "m", 7, True, 3.78),
        ("dspark", "Inferact/Kimi-K3-DSpark", "probabilistic", "m", 7, True, 3.84),
        ("dspark", None, "probabilistic", "deepseek-ai/DeepSeek-V4-Pro-0813", 8, True, 3.47),
        ("mtp", "Inferact/Kimi-K3-DSpark", "", "m", 7, True, None),
    ],
)
def test_a_draft_finds_its_own(
    method: str,
    draft: str | None,
    sampled: str,
    model: str,
    tokens: int,
    thinking: bool,
    length: float | None,
) -> None:
    options = FrozenMap({"draft_sample_method": sampled} if sampled else {})
    spec = Speculative(method, tokens, draft, options=options)
    assert published_length(spec, model, thinking=thinking) == length


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, True),
        ({"thinking": True}, True),
        ({"thinking_mode": "disabled"}, False),
        ({"enable_thinking": False}, False),
    ],
)
def test_thinking(switches: dict[str, object], expected: bool) -> None:
    assert thinks(switches) is expected
