"""Acceptance lengths that InferenceX publishes for drafts: the one place where they stand.

Source: SemiAnalysisAI/InferenceX at 843c6254f, ``golden_al_distribution/FILE.yaml``; each file
names the run of its GitHub Actions that measured it: on B300 over the coding category of
SPEED-Bench's qualitative split, 4,096 output tokens, sampled as the model's authors say. Mean
tokens per step, for 1, 2, ... 8 draft tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_gpubench.model.specs import Speculative


@dataclass(frozen=True, slots=True)
class Curve:
    """The lengths of one draft."""

    file: str
    """Name of the file there, without its ending."""
    run: int
    """Number of the run of its Actions that measured it."""
    method: str
    """``eagle3``, ``dspark`` or ``mtp``."""
    of: tuple[str, ...]
    """Repository of the draft; where the model drafts itself, beginnings of the model's name
    (without its owner, in lower case), whatever its precision."""
    thinking: tuple[float, ...]
    """For 1, 2, ... draft tokens, with thinking on."""
    plain: tuple[float, ...] = ()
    """The same with thinking off; empty: not published."""
    probabilistic: bool | None = None
    """Whether draft tokens were sampled; None: the draft has one curve whatever is said."""

    def fits(self, draft: Speculative, model: str) -> bool:
        """Whether it is the curve of a draft of a model."""
        sampled = draft.options.get("draft_sample_method") == "probabilistic"
        if draft.method != self.method or self.probabilistic not in (None, sampled):
            return False
        if draft.model is not None:
            return draft.model in self.of
        return model.rsplit("/", 1)[-1].lower().startswith(self.of)

    def length(self, tokens: int, *, thinking: bool) -> float | None:
        """The length for so many draft tokens, None where none is published."""
        lengths = self.thinking if thinking else self.plain
        return lengths[tokens - 1] if 1 <= tokens <= len(lengths) else None


CURVES: tuple[Curve, ...] = (
    Curve(
        "dsv4-pro-0813-dspark", 31742838308, "dspark", ("deepseek-v4-pro-0813",),
        (1.84, 2.51, 3.01, 3.36, 3.61, 3.77, 3.73, 3.47),
        probabilistic=True,
    ),
    Curve(
        "dsv4_mtp", 27180633016, "mtp", ("deepseek-v4-pro",),
        (1.79, 2.27, 2.49, 2.54, 2.55, 2.55, 2.54, 2.58),
        (1.92, 2.61, 2.97, 3.00, 3.10, 3.16, 3.00, 3.11),
    ),
    Curve(
        "glm5.2_mtp", 28058352479, "mtp", ("glm-5.2",),
        (1.84, 2.50, 2.99, 3.33, 3.61, 3.78, 3.91, 4.06),
    ),
    Curve(
        "kimik2.5_eagle3", 28122195822, "eagle3", ("lightseekorg/kimi-k2.5-eagle3-mla",),
        (1.83, 2.43, 2.88, 3.24, 3.46, 3.62, 3.71, 3.77),
        (1.80, 2.33, 2.75, 3.06, 3.25, 3.43, 3.46, 3.51),
    ),
    Curve(
        "kimik3_dspark", 30304797750, "dspark", ("Inferact/Kimi-K3-DSpark",),
        (1.84, 2.45, 2.87, 3.22, 3.44, 3.54, 3.78, 3.88),
        probabilistic=False,
    ),
    Curve(
        "kimik3_dspark_probabilistic_sample_method_block_rejection_sample_method", 30316471205,
        "dspark", ("Inferact/Kimi-K3-DSpark",),
        (1.85, 2.51, 3.00, 3.36, 3.62, 3.75, 3.84, 4.00),
        probabilistic=True,
    ),
    Curve(
        "minimaxm3_eagle3", 28061204145, "eagle3", ("Inferact/MiniMax-M3-EAGLE3",),
        (1.78, 2.38, 2.83, 3.11, 3.35, 3.45, 3.53, 3.74),
        (1.84, 2.52, 2.93, 3.41, 3.59, 3.57, 3.85, 4.06),
    ),
    Curve(
        "minimaxm3_eagle3_gqa", 29784780049, "eagle3", ("Inferact/MiniMax-M3-EAGLE3-GQA",),
        (1.79, 2.39, 2.78, 3.02, 3.21, 3.30, 3.52, 3.51),
        (1.83, 2.46, 2.97, 3.29, 3.72, 3.76, 3.75, 3.93),
    ),
    Curve(
        "qwen3.5_mtp", 27317114007, "mtp", ("qwen3.5-397b-a17b",),
        (1.93, 2.73, 3.39, 3.97, 4.41, 4.80, 5.04, 5.21),
        (1.92, 2.70, 3.33, 3.83, 4.20, 4.48, 4.73, 4.71),
    ),
)  # fmt: skip
"""All that are published."""


def published_length(draft: Speculative, model: str, *, thinking: bool) -> float | None:
    """The acceptance length that InferenceX publishes for a draft of a model, None where it has
    none."""
    curve = next((one for one in CURVES if one.fits(draft, model)), None)
    return curve.length(draft.num_speculative_tokens, thinking=thinking) if curve else None


def thinks(chat_template_kwargs: Mapping[str, object]) -> bool:
    """Whether the chat template lets the model think: yes, unless one of its thinking switches is
    off."""
    switches = (value for name, value in chat_template_kwargs.items() if "thinking" in name.lower())
    return all(value not in (False, None, "off", "disabled", "none") for value in switches)
