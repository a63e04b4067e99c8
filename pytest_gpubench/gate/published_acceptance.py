"""Golden acceptance lengths: what others measured for a draft, to check that ours drafts as well."""

from __future__ import annotations

from pytest_gpubench.model.specs import Speculative
from pytest_gpubench.model.workload import Workload

GOLDEN_DATASET = "SPEED-Bench coding"
GOLDEN_TOLERANCE = 0.10
"""Where the recipe names none: another data set or precision moves an acceptance length by several percent."""

_THINKING: dict[str, tuple[float, ...]] = {
    "Inferact/MiniMax-M3-EAGLE3": (1.78, 2.38, 2.83, 3.11, 3.35, 3.45, 3.53, 3.74),
}
_PLAIN: dict[str, tuple[float, ...]] = {
    "Inferact/MiniMax-M3-EAGLE3": (1.84, 2.52, 2.93, 3.41, 3.59, 3.57, 3.85, 4.06),
}
_SINGLE: dict[tuple[str, int, bool], float] = {("Inferact/MiniMax-M3-EAGLE3-GQA", 3, True): 2.78}


def golden_length(speculative: Speculative | None, workload: Workload) -> float | None:
    """The acceptance length that InferenceX publishes for a draft (1 to 8 tokens, thinking on or off), None where it has none."""
    if speculative is None or speculative.model is None:
        return None
    tokens, thinks = speculative.num_speculative_tokens, thinking(workload)
    lengths = (_THINKING if thinks else _PLAIN).get(speculative.model, ())
    if 1 <= tokens <= len(lengths):
        return lengths[tokens - 1]
    return _SINGLE.get((speculative.model, tokens, thinks))


def thinking(workload: Workload) -> bool:
    """Whether the chat template lets the model think: yes, unless one of its thinking switches is off."""
    switches = (value for name, value in workload.chat_template_kwargs.items() if "thinking" in name.lower())
    return all(value not in (False, None, "off", "disabled", "none") for value in switches)
