#!/usr/bin/env python3
"""Times training steps of a dense transformer in PyTorch, eager and compiled, for `dsrsq-bench --suite train` to compare with.

    scripts/bench_pytorch.py --output pytorch.json
    build/bin/dsrsq-bench --suite train --pytorch pytorch.json --output train.json

The model is the one that dsrsq-bench trains: pre-norm blocks of RMSNorm, rotary positions, causal attention through
scaled_dot_product_attention, SwiGLU, tied embeddings, no biases; bf16 autocast over fp32 weights, the gradient clipped to
norm 1, fused AdamW. Random tokens; every token is predicted. The results have the format of all of this project's results.
"""

import argparse
import contextlib
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench_results import quantile, write_results

LOGITS_AT_ONCE = 1 << 31  # of a loss that is not computed again in the backward pass


def rotate(x, cosine, sine):
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, width, heads, mlp_width):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x, cosine, sine):
        batch, tokens, width = x.shape
        projected = self.qkv(self.attention_norm(x)).chunk(3, -1)
        q, k, v = (y.view(batch, tokens, self.heads, -1).transpose(1, 2) for y in projected)
        attended = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, tokens, width))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, layers, width, heads, mlp_width, vocabulary, checkpointing):
        super().__init__()
        self.head_width = width // heads
        self.checkpointing = checkpointing
        # Rows in whole blocks, without which the products of the output head are several times slower.
        self.embedding = nn.Embedding(-(-vocabulary // 64) * 64, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width) for _ in range(layers))
        self.final_norm = nn.RMSNorm(width, eps=1e-5)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * layers) if residual else 1))

    def forward(self, ids):
        """-> final hidden states [tokens, width]."""
        pairs = torch.arange(0, self.head_width, 2, device=ids.device, dtype=torch.float64)
        angles = torch.arange(ids.shape[1], device=ids.device).double()[:, None] * 10000 ** (-pairs / self.head_width)
        cosine, sine = angles.cos().float(), angles.sin().float()
        x = self.embedding(ids)
        for block in self.blocks:
            if self.checkpointing:
                x = checkpoint(block, x, cosine, sine, use_reentrant=False)
            else:
                x = block(x, cosine, sine)
        return self.final_norm(x).flatten(0, 1)


def chunk_loss(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


class Loss(nn.Module):
    """The mean over all tokens; where the logits of all would not fit, in chunks, each computed again in the backward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, targets):
        hidden, weight, targets = self.model(ids), self.model.embedding.weight, targets.flatten()
        if targets.numel() * weight.shape[0] <= LOGITS_AT_ONCE:
            return chunk_loss(hidden, weight, targets) / targets.numel()
        total = 0
        for h, t in zip(hidden.split(8192), targets.split(8192)):
            total = total + checkpoint(chunk_loss, h, weight, t, use_reentrant=False)
        return total / targets.numel()


def parse_case(text):
    try:
        batch, tokens = (int(part) for part in text.split(":")[0].split("x"))
    except ValueError:
        sys.exit(f"--train-cases: expected BATCHxTOKENS, as 4x8192, got '{text}'; change it")
    return batch, tokens


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def time_case(arguments, batch, tokens, compiled):
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    width = 64 * arguments.heads
    model = Model(arguments.layers, width, arguments.heads, width * 8 // 3, arguments.vocabulary,
                  arguments.activation_checkpointing)
    loss_of = Loss(model.to(device))
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-7, betas=(0.9, 0.95), fused=True)
    if compiled:
        loss_of = torch.compile(loss_of, dynamic=False)
    ids = torch.randint(arguments.vocabulary, (batch, tokens), device=device)
    targets = torch.randint(arguments.vocabulary, (batch, tokens), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()

    def step():
        with autocast:
            loss = loss_of(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()  # the trainer, too, waits for its loss before it goes on

    begin = time.perf_counter()
    for _ in range(2):
        loss = step()
    synchronize(device)
    warm_up = time.perf_counter() - begin
    seconds, end = [], time.perf_counter() + arguments.seconds
    while len(seconds) < arguments.minimum_rounds or time.perf_counter() < end:
        begin = time.perf_counter()
        loss = step()
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    peak = 0
    if device.type == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated() - held
    return sorted(seconds), loss, peak, warm_up


def records_of(arguments, batch, tokens, compiled):
    name = f"batch {batch}, n {tokens}"
    method = "pytorch_compiled" if compiled else "pytorch_eager"
    try:
        seconds, loss, peak, warm_up = time_case(arguments, batch, tokens, compiled)
    except torch.OutOfMemoryError:
        print(f"{name}, {method}: out of memory: no record", flush=True)
        return []
    finally:
        torch._dynamo.reset()
        if arguments.device.startswith("cuda"):
            torch.cuda.empty_cache()
    step = statistics.median(seconds)
    print(f"{name}, {method}: {step * 1e3:.2f} ms a step, {batch * tokens / step:.0f} tokens/s, loss {loss:.3f}, "
          f"warm-up {warm_up:.1f} s", flush=True)
    shape = {"batch": batch, "tokens": tokens, "layers": arguments.layers, "width": 64 * arguments.heads,
             "heads": arguments.heads, "mlp_width": 64 * arguments.heads * 8 // 3, "vocabulary": arguments.vocabulary,
             "activation_checkpointing": int(arguments.activation_checkpointing)}
    values = [("step", step, "s"), ("tokens_per_second", batch * tokens / step, "tokens/s"), ("loss", loss, "nats")]
    if peak:
        values.append(("peak_allocated", peak, "bytes"))
    found = [{"case": name, "method": method, "shape": shape, "metric": metric, "value": value, "unit": unit}
             for metric, value, unit in values]
    found[0].update(p10=quantile(seconds, .1), p90=quantile(seconds, .9))
    return found


def main():
    parser = argparse.ArgumentParser(description="Times training steps of a dense transformer in PyTorch.")
    parser.add_argument("--output", required=True, help="results.json to write")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train-cases", default="32x1024,4x8192,1x32768,1x131072",
                        help="BATCHxTOKENS,...; what follows a ':' is ignored")
    parser.add_argument("--modes", default="eager,compiled")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12, help="of width 64")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1, help="of measuring, a case and mode")
    parser.add_argument("--minimum-rounds", type=int, default=5)
    arguments = parser.parse_args()
    cases = [parse_case(text) for text in arguments.train_cases.split(",")]
    modes = arguments.modes.split(",")
    for mode in modes:
        if mode not in ("eager", "compiled"):
            sys.exit(f"--modes: expected eager or compiled, got '{mode}'; change it")
    cuda = arguments.device.startswith("cuda")
    records = []
    for batch, tokens in cases:
        for mode in modes:
            records += records_of(arguments, batch, tokens, mode == "compiled")
    device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    versions = {"torch": torch.__version__}
    if cuda:
        cudnn = torch.backends.cudnn.version()
        versions["cudnn"] = f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
    write_results(arguments.output, records, device, versions, [arguments.seed])


if __name__ == "__main__":
    main()
