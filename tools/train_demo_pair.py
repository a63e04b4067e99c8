"""Train the demo pair: a small Llama on the grammar's conversations, then an EAGLE3 draft on what that Llama writes.

Needs PyTorch and safetensors, and nothing else of the package's extras. One H100 takes about five minutes:

    PYTHONPATH=. python tools/train_demo_pair.py --out DIR
    PYTHONPATH=. python tools/train_demo_pair.py --out DIR --smoke      # a minute on a CPU; the result is of no use

DIR gets target.safetensors, draft.safetensors (bfloat16) and training.json. Data and initial weights follow from the seed; sums on
a GPU are rounded in an order that is not fixed, so another run gives equally good weights and not the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from demo_corpus import Turn, Writer
from demo_pair_model import Draft, Shape, Target, matches, walk
from safetensors.torch import save_file
from torch import Tensor, nn

from pytest_gpubench.demo.tokenizer import draft_token_ids, vocabulary

SEED = 6
LENGTH = 512
STEPS = 5
_TOKENS = vocabulary()
_BOS, _END, _PAD = _TOKENS["<|begin|>"], _TOKENS["<|end|>"], _TOKENS["<|pad|>"]


def encode_turns(turns: list[Turn], *, answer: bool) -> list[int]:
    """Token ids of a conversation as the chat template renders it; ``answer``: ready for an answer, else complete."""
    ids = [_BOS]
    for role, text in turns:
        ids.append(_TOKENS[f"<|{role}|>"])
        ids += [_TOKENS[word if word in ".,:!?" else "\u0120" + word] for word in re.findall(r"\w+|[^\w\s]", text)]
        ids.append(_END)
    return [*ids, _TOKENS["<|assistant|>"]] if answer else ids


def write_rows(task: tuple[str, int]) -> np.ndarray:
    """Rows of ``LENGTH`` + 1 ids; each begins with a conversation and is filled with further ones."""
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


def train_target(shape: Shape, rows: Tensor, steps: int, batch: int, device: torch.device) -> tuple[Target, list[float]]:
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
    target: Target, shape: Shape, rows: Tensor, prompts: Tensor, steps: int, batch: int, device: torch.device
) -> tuple[Draft, list[float]]:
    """Training-time test over ``STEPS`` drafts on what the target wrote; the answer's tokens count ten times the prompt's."""
    ids = torch.tensor(sorted([*_SPECIAL_DRAFTS, *draft_token_ids(shape.draft_vocab - len(_SPECIAL_DRAFTS))]))
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
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, aux = target(batch_ids)
            best = logits.argmax(-1)
            wanted = logits[..., kept].float().softmax(-1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            guesses = forward(batch_ids, target_head, aux.detach(), STEPS)
        inverse = torch.full((shape.vocab,), -1, device=device).scatter(0, kept, torch.arange(len(kept), device=device))
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


def write_answers(target: Target, prompts: list[list[int]], chunk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ``LENGTH`` ids, prompt and greedy continuation, and the prompts' lengths."""
    rows, lengths = [], torch.tensor([len(prompt) for prompt in prompts])
    for start in range(0, len(prompts), chunk):
        part = prompts[start : start + chunk]
        longest = max(map(len, part))
        padded = torch.tensor([prompt + [_PAD] * (longest - len(prompt)) for prompt in part], device=device)
        rows.append(target.write(padded, lengths[start : start + chunk].to(device), LENGTH).cpu())
    return torch.cat(rows), lengths


def acceptance(target: Target, draft: Draft, rows: Tensor, lengths: Tensor, device: torch.device) -> dict[str, list[float]]:
    """Acceptance length for 1 to ``STEPS`` drafts per round, and the share accepted per position at ``STEPS``."""
    found: dict[str, list[float]] = {"length": []}
    good = torch.cat([matches(target, draft, part.to(device).long(), STEPS).cpu() for part in rows.split(32)]).tolist()
    for steps in range(1, STEPS + 1):
        walks = [walk(row, int(prompt), LENGTH, steps) for row, prompt in zip(good, lengths, strict=True)]
        drafts = sum(each for each, _ in walks)
        per_position = [sum(column) / drafts for column in zip(*(accepted for _, accepted in walks), strict=True)]
        found["length"].append(round(1 + sum(per_position), 4))
        found["per_position"] = [round(each, 4) for each in per_position]
    return found


def _optimizer(model: nn.Module, rate: float, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=next(model.parameters()).is_cuda)
    warm = max(1, steps // 30)
    cosine = np.cos
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + float(cosine(np.pi * step / steps))))
    )


def _update(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _note(what: str, step: int, steps: int, loss: Tensor, losses: list[float]) -> None:
    if step % 100 == 0 or step == steps - 1:
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


def main() -> None:
    """Train, save, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="tiny numbers, to see that it runs")
    parser.add_argument("--target-steps", type=int, default=5000)
    parser.add_argument("--draft-steps", type=int, default=2500)
    options = parser.parse_args()
    if options.smoke:
        options.target_steps, options.draft_steps = 4, 3
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    row_count, prompt_count, batch, draft_batch, chunk = (200_000, 32_768, 128, 64, 4096) if not options.smoke else (64, 64, 2, 2, 2)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True  # what does not compile runs as it is
    begin, shape, spent = time.time(), Shape(), {}

    shards = 64
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = torch.from_numpy(np.concatenate(list(pool.map(write_rows, [(f"rows/{SEED}/{n}", row_count // shards) for n in range(shards)]))))
        parts = pool.map(write_prompts, [(f"prompts/{SEED}/{n}", max(1, prompt_count // shards)) for n in range(shards)])
        prompts = [prompt for part in parts for prompt in part]
        held = write_prompts((f"held/{SEED}", 2 if options.smoke else 512))
    spent["text"] = time.time() - begin
    if options.smoke:
        prompts = prompts[:4]
    print(f"{rows.numel()} tokens of text in {spent['text']:.0f} s", flush=True)

    target, target_losses = train_target(shape, rows, options.target_steps, batch, device)
    _rounded(target)
    _save(target, options.out / "target.safetensors")
    spent["target"] = time.time() - begin - sum(spent.values())
    writer = Target(shape).to(device)
    writer.load_state_dict(target.state_dict())
    writer = writer.to(torch.bfloat16 if cuda else torch.float32).requires_grad_(False)
    answers, lengths = write_answers(writer, sorted(prompts, key=len), chunk, device)
    held_rows, held_lengths = write_answers(writer, held, chunk, device)
    spent["answers"] = time.time() - begin - sum(spent.values())
    print(f"{len(answers)} answers in {spent['answers']:.0f} s", flush=True)

    draft, draft_losses = train_draft(writer_for_draft(writer, cuda), shape, answers, lengths, options.draft_steps, draft_batch, device)
    _rounded(draft)
    _save(draft, options.out / "draft.safetensors")
    spent["draft"] = time.time() - begin - sum(spent.values())

    draft = draft.to(next(writer.parameters()).dtype)
    with torch.inference_mode():
        held_text = torch.from_numpy(write_rows((f"held/{SEED}", 2 if options.smoke else 256))).to(device).long()
        losses = [
            F.cross_entropy(writer(part[:, :-1])[0].float().flatten(0, 1), part[:, 1:].flatten()).item() for part in held_text.split(32)
        ]
    report = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "seconds": {key: round(value, 1) for key, value in spent.items()},
        "parameters": {"target": sum(p.numel() for p in target.parameters()), "draft": sum(p.numel() for p in draft.parameters())},
        "text_tokens": rows.numel(),
        "target": {"steps": options.target_steps, "batch": batch, "losses": target_losses, "held_out_loss": round(sum(losses) / len(losses), 4)},
        "draft": {"steps": options.draft_steps, "batch": draft_batch, "losses": draft_losses},
        "acceptance": acceptance(writer, draft, held_rows, held_lengths, device),
    }
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({**report, "target": report["target"]["held_out_loss"], "draft": draft_losses[-1]}), flush=True)
    names = {index: token for token, index in _TOKENS.items()}
    for row in held_rows[:6]:
        print("".join(names[index] for index in row[:200].tolist()).replace("\u0120", " "), flush=True)


def writer_for_draft(writer: Target, cuda: bool) -> Target:
    """The frozen target as the draft's training calls it."""
    return torch.compile(writer) if cuda else writer


if __name__ == "__main__":
    main()
