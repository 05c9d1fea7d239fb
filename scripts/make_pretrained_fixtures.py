"""Makes tests/model/pretrained/: small models of every family that the backbone loads, with random weights, and what
`transformers` computes with them.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch==2.11.0 transformers==5.24.0
    /tmp/venv/bin/python scripts/make_pretrained_fixtures.py

A folder each: config.json, safetensors, expected.safetensors with ids.L [L], logits.L [positions kept, V] (of the last KEPT
positions), batch.ids [2, T] with batch.lengths, and greedy.prompt -> greedy.ids.
"""

import json
import pathlib
import shutil

import torch
import transformers as hf
from safetensors.torch import save_file

LENGTHS = (1, 17, 512)
KEPT = 24
NEW_TOKENS = 64
VOCABULARY = 40
SMALL = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=VOCABULARY, max_position_embeddings=1024, initializer_range=0.4, bos_token_id=0, eos_token_id=1)

# head_dim 8 is not 24 / 4; scaled RoPE at lengths over the original one.
FAMILIES = {
    "llama": lambda: hf.LlamaConfig(**SMALL, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5}),
    "llama3_scaled": lambda: hf.LlamaConfig(**SMALL, head_dim=8, tie_word_embeddings=False, attention_bias=True, rope_parameters={
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "llama_linear": lambda: hf.LlamaConfig(**SMALL, tie_word_embeddings=False, rope_parameters={
        "rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "mistral": lambda: hf.MistralConfig(**SMALL, head_dim=8, tie_word_embeddings=False, sliding_window=None),
    "qwen2": lambda: hf.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2_yarn": lambda: hf.Qwen2Config(**SMALL, tie_word_embeddings=False, rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}),
    "qwen3": lambda: hf.Qwen3Config(**SMALL, head_dim=8, tie_word_embeddings=True),
    "gpt2": lambda: hf.GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=640, vocab_size=VOCABULARY,
                                  initializer_range=0.4, bos_token_id=0, eos_token_id=1),
}


def make(name, config, folder):
    torch.manual_seed(sum(map(ord, name)))
    config._attn_implementation = "eager"
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # biases and norms start as 0 and 1: with such a model half of a mapping could be wrong
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    shutil.rmtree(folder, ignore_errors=True)
    # One family comes in shards, one in bf16.
    if name == "qwen2_yarn":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB" if name == "mistral" else "5GB")
    # As a user's program would load it: buffers such as RoPE's frequencies are fp32 again.
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    expected = {}
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randint(2, VOCABULARY, shape, generator=generator)
    with torch.no_grad():
        for length in LENGTHS:
            ids = draw(1, length)
            expected[f"ids.{length}"] = ids[0].to(torch.int32)
            expected[f"logits.{length}"] = model(ids).logits[0, -KEPT:].float()
        lengths = [9, 5]
        batch = draw(2, 9)
        rows = [model(batch[i:i + 1, :n]).logits[0, -1].float() for i, n in enumerate(lengths)]
        expected["batch.ids"] = batch.to(torch.int32)
        expected["batch.lengths"] = torch.tensor(lengths, dtype=torch.int32)
        expected["batch.logits"] = torch.stack(rows)
        prompt = draw(1, 12)
        ids = prompt
        for _ in range(NEW_TOKENS):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        expected["greedy.prompt"] = prompt[0].to(torch.int32)
        expected["greedy.ids"] = ids[0, prompt.shape[1]:].to(torch.int32)
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name:14} {json.loads((folder / 'config.json').read_text())['architectures'][0]:22} {size // 1024} KB, "
          f"{len(set(expected['greedy.ids'].tolist()))} different greedy tokens")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent / "tests" / "model" / "pretrained"
    root.mkdir(parents=True, exist_ok=True)
    for name, config in FAMILIES.items():
        make(name, config(), root / name)
    print(f"transformers {hf.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
