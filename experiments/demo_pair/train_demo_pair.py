"""Train the demo pair: a small Llama on the grammar's conversations, then an EAGLE3 draft on what
that Llama writes.

Needs PyTorch and safetensors, and nothing else of the package's extras. One H100 takes about five
minutes:

    PYTHONPATH=. python experiments/demo_pair/train_demo_pair.py --out DIR
    PYTHONPATH=. python experiments/demo_pair/train_demo_pair.py --out DIR --smoke      # a minute on a CPU; the result is of no use

DIR gets target.safetensors, draft.safetensors (bfloat16) and training.json. Data and initial
weights follow from the seed; sums on a GPU are rounded in an order that is not fixed, so another
run gives equally good weights and not the same ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from demo_corpus import Turn, Writer
from demo_pair_model import Draft, Shape, Target, matches, walk
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.optimizer import Optimizer

from pytest_gpubench.demo.tokenizer import draft_token_ids, vocabulary

SEED = 6
LENGTH = 512
STEPS = 5
_TOKENS = vocabulary()
_BOS, _END, _PAD = _TOKENS["<|begin|>"], _TOKENS["<|end|>"], _TOKENS["<|pad|>"]


def encode_turns(turns: list[Turn], *, answer: bool) -> list[int]:
    """Token ids of a conversation as the chat template renders it; ``answer``: ready for an answer,
    else complete."""
    ids = [_BOS]
    for role, text in turns:
        ids.append(_TOKENS[f"<|{role}|>"])
        ids += [
            _TOKENS[word if word in ".,:!?" else "\u0120" + word]
            for word in re.findall(r"\w+|[^\w\s]", text)
        ]
        ids.append(_END)
    return [*ids, _TOKENS["<|assistant|>"]] if answer else ids


def write_rows(task: tuple[str, int]) -> np.ndarray:
    """Rows of ``LENGTH`` + 1 ids; each begins with a conversation and is filled with further
    ones."""
    name, count = task
    writer, rows = Writer(name), np.zeros((count, LENGTH + 1), dtype=np.int16)
    for row in rows:
        ids: list[int] = []
        while len(ids) <= LENGTH:
            ids += encode_turns(writer.conversation(), answer=False)
        row[:] = ids[: LENGTH + 1]
    return rows


def write_prompts(task: tuple[str, int]) -> list[list[int]]:
    """Conversations up to a point where the assistant answers."""
    name, count = task
    writer, found = Writer(name), []
    while len(found) < count:
        turns = writer.conversation()
        users = [index for index, (role, _) in enumerate(turns) if role == "user"]
        ids = encode_turns(turns[: writer.draw(users) + 1], answer=True)
        if len(ids) < LENGTH - 96:
            found.append(ids)
    return found


def train_target(
    shape: Shape, rows: Tensor, steps: int, batch: int, device: torch.device
) -> tuple[Target, list[float]]:
    """Next-token training with AdamW and a cosine schedule."""
    model = Target(shape).to(device)
    forward = torch.compile(model) if device.type == "cuda" else model
    optimizer, schedule = _optimizer(model, 3e-3, steps)
    order, losses = _order(len(rows), steps * batch), []
    for step in range(steps):
        ids = rows[order[step * batch : (step + 1) * batch]].to(device).long()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, _ = forward(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        _update(model, loss, optimizer, schedule)
        _note("target", step, steps, loss, losses)
    return model, losses


def train_draft(
    target: Target,
    shape: Shape,
    rows: Tensor,
    prompts: Tensor,
    steps: int,
    batch: int,
    device: torch.device,
) -> tuple[Draft, list[float]]:
    """Training-time test over ``STEPS`` drafts on what the target wrote; the answer's tokens count
    ten times the prompt's."""
    ids = torch.tensor(
        sorted([*_SPECIAL_DRAFTS, *draft_token_ids(shape.draft_vocab - len(_SPECIAL_DRAFTS))])
    )
    draft = Draft(shape, ids).to(device)
    with torch.no_grad():
        draft.lm_head.weight.copy_(target.model.embed_tokens.weight[ids.to(device)])
    forward = torch.compile(draft) if device.type == "cuda" else draft
    optimizer, schedule = _optimizer(draft, 2e-3, steps)
    order, losses, kept = _order(len(rows), steps * batch), [], draft.ids
    target_head = target.model.embed_tokens.weight.detach()
    share = torch.tensor([0.9**step for step in range(STEPS)], device=device)
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        batch_ids = rows[chosen].to(device).long()
        with (
            torch.no_grad(),
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        ):
            logits, aux = target(batch_ids)
            best = logits.argmax(-1)
            wanted = logits[..., kept].float().softmax(-1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            guesses = forward(batch_ids, target_head, aux.detach(), STEPS)
        inverse = torch.full((shape.vocab,), -1, device=device).scatter(
            0, kept, torch.arange(len(kept), device=device)
        )
        at = torch.arange(batch_ids.shape[1], device=device)
        answer = (at >= prompts[chosen].to(device)[:, None] - 1).float() * 0.9 + 0.1
        total = torch.zeros((), device=device)
        for number, guess in enumerate(guesses):
            ahead, reach = number + 1, batch_ids.shape[1] - number - 1
            log = guess[:, :reach].float().log_softmax(-1)
            soft = -(wanted[:, ahead:] * log).sum(-1)
            label = inverse[best[:, ahead:]]
            hard = -log.gather(-1, label.clamp(min=0)[..., None])[..., 0] * (label >= 0)
            weight = answer[:, ahead:]
            total = total + share[number] * ((soft + hard) * weight).sum() / weight.sum()
        loss = total / share.sum()
        _update(draft, loss, optimizer, schedule)
        _note("draft", step, steps, loss, losses)
    return draft, losses


_SPECIAL_DRAFTS = [_TOKENS[token] for token in ("<|end|>", "<|user|>", "<|assistant|>", *".,?!:")]


def write_answers(
    target: Target, prompts: list[list[int]], chunk: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of ``LENGTH`` ids, prompt and greedy continuation, and the prompts' lengths."""
    rows, lengths = [], torch.tensor([len(prompt) for prompt in prompts])
    for start in range(0, len(prompts), chunk):
        part = prompts[start : start + chunk]
        longest = max(map(len, part))
        padded = torch.tensor(
            [prompt + [_PAD] * (longest - len(prompt)) for prompt in part], device=device
        )
        rows.append(target.write(padded, lengths[start : start + chunk].to(device), LENGTH).cpu())
    return torch.cat(rows), lengths


def acceptance(
    target: Target, draft: Draft, rows: Tensor, lengths: Tensor, device: torch.device
) -> dict[str, list[float]]:
    """Acceptance length for 1 to ``STEPS`` drafts per round, and the share accepted per position at
    ``STEPS``."""
    found: dict[str, list[float]] = {"length": []}
    good = torch.cat(
        [matches(target, draft, part.to(device).long(), STEPS).cpu() for part in rows.split(32)]
    ).tolist()
    for steps in range(1, STEPS + 1):
        walks = [
            walk(row, int(prompt), LENGTH, steps) for row, prompt in zip(good, lengths, strict=True)
        ]
        drafts = sum(each for each, _ in walks)
        per_position = [
            sum(column) / drafts
            for column in zip(*(accepted for _, accepted in walks), strict=True)
        ]
        found["length"].append(round(1 + sum(per_position), 4))
        found["per_position"] = [round(each, 4) for each in per_position]
    return found


def _optimizer(model: nn.Module, rate: float, steps: int) -> tuple[Optimizer, LRScheduler]:
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=rate, betas=(0.9, 0.98), fused=next(model.parameters()).is_cuda
    )
    warm = max(1, steps // 30)

    def rate_at(step: int) -> float:
        return min(1.0, (step + 1) / warm) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        )

    return optimizer, LambdaLR(optimizer, rate_at)


def _update(model: nn.Module, loss: Tensor, optimizer: Optimizer, schedule: LRScheduler) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _note(what: str, step: int, steps: int, loss: Tensor, losses: list[float]) -> None:
    if step % (steps // 4 or 1) == 0 or step == steps - 1:
        losses.append(round(loss.item(), 4))
        print(f"{time.strftime('%X')} {what} step {step} of {steps}: loss {losses[-1]}", flush=True)


def _order(rows: int, wanted: int) -> Tensor:
    """Row numbers, shuffled epoch by epoch."""
    generator = torch.Generator().manual_seed(SEED)
    epochs = [torch.randperm(rows, generator=generator) for _ in range(-(-wanted // rows))]
    return torch.cat(epochs)[:wanted]


def _rounded(model: nn.Module) -> None:
    """What is stored: bfloat16."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))


def _save(model: nn.Module, path: Path) -> None:
    tensors = {
        name: (value.to(torch.bfloat16) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    target_steps: int = 5000
    draft_steps: int = 2000
    rows: int = 200_000
    prompts: int = 16_384
    held: int = 512
    batch: int = 128
    draft_batch: int = 64
    chunk: int = 4096
    """Answers that are written side by side."""


SMOKE = Amounts(
    target_steps=4, draft_steps=3, rows=64, prompts=4, held=2, batch=2, draft_batch=2, chunk=2
)
SHARDS = 64


def write_texts(amounts: Amounts) -> tuple[Tensor, list[list[int]]]:
    """Training rows, and prompts whose answers the draft learns from."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(
            write_rows, [(f"rows/{SEED}/{n}", amounts.rows // SHARDS) for n in range(SHARDS)]
        )
        rows = torch.from_numpy(np.concatenate(list(parts)))
        asked = pool.map(
            write_prompts,
            [(f"prompts/{SEED}/{n}", -(-amounts.prompts // SHARDS)) for n in range(SHARDS)],
        )
        prompts = [prompt for part in asked for prompt in part][: amounts.prompts]
    return rows, sorted(prompts, key=len)


@torch.inference_mode()
def held_out_loss(target: Target, count: int, device: torch.device) -> float:
    """Cross entropy per token on text that was not trained on."""
    rows = torch.from_numpy(write_rows((f"held/{SEED}", count))).to(device).long()
    losses = [
        F.cross_entropy(target(part[:, :-1])[0].float().flatten(0, 1), part[:, 1:].flatten())
        for part in rows.split(32)
    ]
    return round(sum(loss.item() for loss in losses) / len(losses), 4)


def train(amounts: Amounts, out: Path, device: torch.device) -> dict[str, Any]:
    """Train both, save them, and say how it went."""
    cuda, shape = device.type == "cuda", Shape()
    seconds: dict[str, float] = {}
    last = time.time()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = round(time.time() - last, 1), time.time()
        print(f"{name}: {seconds[name]} s", flush=True)

    rows, prompts = write_texts(amounts)
    lap("text")
    trained, target_losses = train_target(shape, rows, amounts.target_steps, amounts.batch, device)
    _rounded(trained)
    _save(trained, out / "target.safetensors")
    lap("target")
    target = Target(shape).to(device)
    target.load_state_dict(trained.state_dict())
    target = target.to(torch.bfloat16 if cuda else torch.float32).requires_grad_(False)
    answers, lengths = write_answers(target, prompts, amounts.chunk, device)
    held, held_lengths = write_answers(
        target, write_prompts((f"held/{SEED}", amounts.held)), amounts.chunk, device
    )
    lap("answers")
    teacher = torch.compile(target) if cuda else target
    draft, draft_losses = train_draft(
        teacher, shape, answers, lengths, amounts.draft_steps, amounts.draft_batch, device
    )
    _rounded(draft)
    _save(draft, out / "draft.safetensors")
    lap("draft")
    draft = draft.to(next(target.parameters()).dtype)
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "seconds": seconds,
        "parameters": {
            name: sum(each.numel() for each in model.parameters())
            for name, model in (("target", target), ("draft", draft))
        },
        "text_tokens": rows.numel(),
        "target": {
            "steps": amounts.target_steps,
            "batch": amounts.batch,
            "losses": target_losses,
            "held_out_loss": held_out_loss(target, amounts.held // 2, device),
        },
        "draft": {
            "steps": amounts.draft_steps,
            "batch": amounts.draft_batch,
            "losses": draft_losses,
        },
        "acceptance": acceptance(target, draft, held, held_lengths, device),
    }


def main() -> None:
    """Train, save, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="tiny numbers, to see that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True  # what does not compile runs as it is
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = train(SMOKE if options.smoke else Amounts(), options.out, device)
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["acceptance"]), flush=True)


if __name__ == "__main__":
    main()
