"""The demo pair in PyTorch: a Llama and an EAGLE3 draft, computed as vLLM's ``llama`` and
``llama_eagle3`` do.

Weights carry the names of the checkpoint files. The draft's forward is the training-time test of
EAGLE3: for every position of a sequence at once, the chain of drafts that an engine would propose
there, as long as all drafts before were right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of both models; ``aux`` counts the target's layers before each state that the draft
    reads."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 512
    draft_intermediate: int = 256
    vocab: int = 2048
    draft_vocab: int = 320
    aux: tuple[int, int, int] = (1, 2, 3)
    rope_theta: float = 10000.0
    eps: float = 1e-6


class Norm(nn.Module):
    """RMS norm, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight.to(x.dtype)


class Attention(nn.Module):
    """Projections and rotary positions; who attends to what is the caller's."""

    def __init__(self, shape: Shape, into: int, kv_heads: int) -> None:
        super().__init__()
        self.shape, self.kv_heads = shape, kv_heads
        wide = shape.heads * shape.head_dim
        self.q_proj = nn.Linear(into, wide, bias=False)
        self.k_proj = nn.Linear(into, kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(into, kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(wide, shape.hidden, bias=False)

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads, length, head_dim), KV heads repeated to the
        number of heads."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2) for part in parts)
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        repeat = self.shape.heads // self.kv_heads
        return q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        half = self.shape.head_dim // 2
        speed = self.shape.rope_theta ** (
            -torch.arange(half, device=x.device, dtype=torch.float32) / half
        )
        angle = positions.float()[..., None] * speed
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        left, right = x[..., :half], x[..., half:]
        return torch.cat((left * cos - right * sin, right * cos + left * sin), -1)

    def close(self, mixed: Tensor) -> Tensor:
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape, shape.hidden, shape.kv_heads)
        self.mlp = Mlp(shape.hidden, shape.intermediate)
        self.input_layernorm = Norm(shape.hidden, shape.eps)
        self.post_attention_layernorm = Norm(shape.hidden, shape.eps)


class _Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.eps)


class Target(nn.Module):
    """A Llama whose head is its embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.model = shape, _Body(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=self._spread(name, weight.shape[1]))

    def _spread(self, name: str, into: int) -> float:
        """Standard deviation of a matrix's first values."""
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return 0.02 / (2 * self.shape.layers) ** 0.5
        return 0.02 if "embed" in name else into**-0.5

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the three states that the draft reads, side by side."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x, aux = self.model.embed_tokens(ids), []
        for number, layer in enumerate(self.model.layers):
            if number in self.shape.aux:
                aux.append(x)
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), positions)
            x = x + layer.self_attn.close(F.scaled_dot_product_attention(q, k, v, is_causal=True))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.head(x), torch.cat(aux, -1)

    def head(self, x: Tensor) -> Tensor:
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight.to(x.dtype))

    @torch.inference_mode()
    def write(self, prompts: Tensor, lengths: Tensor, total: int) -> Tensor:
        """Greedy continuation of prompts of different lengths (padded right) up to ``total`` tokens
        each, past any end."""
        shape, rows, device = self.shape, prompts.shape[0], prompts.device
        dtype = self.model.norm.weight.dtype
        cache = torch.zeros(
            shape.layers, 2, rows, shape.heads, total, shape.head_dim, device=device, dtype=dtype
        )
        ids = F.pad(prompts, (0, total - prompts.shape[1]))
        for at in range(total - 1):
            x = self.model.embed_tokens(ids[:, at : at + 1])
            position = torch.tensor([at], device=device)
            for number, layer in enumerate(self.model.layers):
                q, k, v = layer.self_attn.project(layer.input_layernorm(x), position)
                cache[number, 0, :, :, at], cache[number, 1, :, :, at] = k[:, :, 0], v[:, :, 0]
                mixed = F.scaled_dot_product_attention(
                    q, cache[number, 0, :, :, : at + 1], cache[number, 1, :, :, : at + 1]
                )
                x = x + layer.self_attn.close(mixed)
                x = x + layer.mlp(layer.post_attention_layernorm(x))
            best = self.head(x)[:, 0].argmax(-1)
            ids[:, at + 1] = torch.where(lengths > at + 1, ids[:, at + 1], best)
        return ids


class _MidLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape, 2 * shape.hidden, shape.heads)
        self.mlp = Mlp(shape.hidden, shape.draft_intermediate)
        self.hidden_norm = Norm(shape.hidden, shape.eps)
        self.input_layernorm = Norm(shape.hidden, shape.eps)
        self.post_attention_layernorm = Norm(shape.hidden, shape.eps)


class Draft(nn.Module):
    """An EAGLE3 head; its embedding is the target's."""

    def __init__(self, shape: Shape, ids: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("d2t", ids - torch.arange(len(ids)))
        self.fc = nn.Linear(3 * shape.hidden, shape.hidden, bias=False)
        self.midlayer = _MidLayer(shape)
        self.norm = Norm(shape.hidden, shape.eps)
        self.lm_head = nn.Linear(shape.hidden, len(ids), bias=False)

    @property
    def ids(self) -> Tensor:
        """Target id of every draft id."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def forward(self, ids: Tensor, embeddings: Tensor, aux: Tensor, steps: int) -> list[Tensor]:
        """Logits over the draft's ids: ``out[k][:, i]`` guesses token ``i + 2 + k`` from the
        target's states up to position ``i``.

        At step 0 position ``i`` combines the target's state there with the embedding of token ``i +
        1``; at step k it combines the draft's own state of the step before with the embedding of
        token ``i + 1 + k`` and stands at position ``i + k``. A step sees the keys of step 0 up to
        ``i`` and those that its own chain has added.
        """
        mid, length = self.midlayer, ids.shape[1]
        start = torch.arange(length, device=ids.device)
        causal = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
        hidden, chain, out = self.fc(aux), [], []
        for step in range(steps):
            following = F.embedding(F.pad(ids[:, step + 1 :], (0, step + 1)), embeddings)
            x = torch.cat((mid.input_layernorm(following), mid.hidden_norm(hidden)), -1)
            q, k, v = mid.self_attn.project(x, start + step)
            chain.append((k, v))
            first_k, first_v = chain[0]
            scale = self.shape.head_dim**-0.5
            scores = (q @ first_k.transpose(-1, -2)).float() * scale + causal
            own = [((q * k).sum(-1, keepdim=True).float() * scale) for k, _ in chain[1:]]
            weights = torch.cat([scores, *own], -1).softmax(-1).to(q.dtype)
            mixed = weights[..., :length] @ first_v
            for number, (_, v) in enumerate(chain[1:]):
                mixed = mixed + weights[..., length + number, None] * v
            x = hidden + mid.self_attn.close(mixed)
            hidden = x + mid.mlp(mid.post_attention_layernorm(x))
            out.append(self.lm_head(self.norm(hidden)))
        return out


@torch.inference_mode()
def matches(target: Target, draft: Draft, ids: Tensor, steps: int) -> Tensor:
    """(rows, length, steps): whether the draft made at position ``i`` for token ``i + 2 + k`` is
    that token, all before it too."""
    _, aux = target(ids)
    logits = draft(ids, target.model.embed_tokens.weight, aux, steps)
    good = []
    for step, guess in enumerate(logits):
        wanted = F.pad(ids[:, step + 2 :], (0, step + 2), value=-1)
        good.append(draft.ids[guess.argmax(-1)] == wanted)
    return torch.stack(good, -1).cumprod(-1).bool()


def walk(good: list[list[bool]], prompt: int, total: int, steps: int) -> tuple[int, list[int]]:
    """Drafts made and accepted drafts per position when an engine writes tokens ``prompt .. total``
    of one sequence.

    Args:
        good: one row of :func:`matches`.
        prompt: tokens of the prompt.
        total: tokens of prompt and output.
        steps: drafts per round.
    """
    at, drafts, accepted = (
        prompt,
        0,
        [0] * steps,
    )  # token `at` is written by the target alone; drafts follow it
    while at + 1 < total:
        right = sum(good[at - 1][:steps])
        right = min(right, total - 1 - at)
        drafts += 1
        for position in range(right):
            accepted[position] += 1
        at += right + 1
    return drafts, accepted
