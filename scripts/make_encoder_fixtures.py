"""Makes tests/retriever/encoder/: small BERT sentence encoders with random weights, and what `transformers` computes with them; with
--folder runs/minilm, tests/retriever/minilm_expected.safetensors for the real one.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch==2.11.0 transformers==5.24.0
    /tmp/venv/bin/python scripts/make_encoder_fixtures.py [--folder runs/minilm]

A folder each: config.json, model.safetensors, vocab.txt, expected.safetensors with ids, lengths, states [B, T, W] (0 where padded) and
embedded [B, W].
"""

import argparse
import pathlib
import shutil

import torch
import transformers as hf
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "retriever"
CONTROL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = CONTROL + [c for c in "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-:$"] + ["##" + c for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
KINDS = {
    "gelu": dict(hidden_act="gelu"),
    "relu_half": dict(hidden_act="relu", num_hidden_layers=3, type_vocab_size=1, layer_norm_eps=1e-6),  # in bf16
    "tanh": dict(hidden_act="gelu_new", num_attention_heads=4),
}
SENTENCES = ["What is the capital of France?", "Paris is the capital and largest city of France.",
             "The mitochondrion is the powerhouse of the cell.", "a", "Zoë's café — naïve 漢字 😀 " * 6]


def expect(model, ids, lengths):
    mask = torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float() * mask[..., None]
    mean = states.sum(1) / mask.sum(1, keepdim=True)
    return {"ids": ids.to(torch.int32), "lengths": torch.tensor(lengths, dtype=torch.int32), "states": states.contiguous(),
            "embedded": torch.nn.functional.normalize(mean, dim=-1).contiguous()}


def load(folder):
    return hf.BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def make(name, options, folder):
    torch.manual_seed(sum(map(ord, name)))
    config = hf.BertConfig(**{**dict(vocab_size=len(TOKENS) + 3, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=40, max_position_embeddings=48, initializer_range=0.4), **options})
    model = hf.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    shutil.rmtree(folder, ignore_errors=True)
    (model.to(torch.bfloat16) if name == "relu_half" else model).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    ids = torch.randint(5, len(TOKENS), (4, 48), generator=torch.Generator().manual_seed(1))
    save_file(expect(load(folder), ids, [48, 1, 17, 30]), folder / "expected.safetensors")
    print(f"{name:10} {sum(path.stat().st_size for path in folder.iterdir()) // 1024} KB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, help="the real model, by scripts/import_minilm.py")
    args = parser.parse_args()
    for name, options in KINDS.items():
        make(name, options, ROOT / "encoder" / name)
    if args.folder:
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.enable_padding()
        rows = tokenizer.encode_batch(SENTENCES)
        expected = expect(load(args.folder), torch.tensor([row.ids for row in rows]), [sum(row.attention_mask) for row in rows])
        expected["states"] = expected["states"][..., ::16].contiguous()  # every 16th dimension
        save_file(expected, ROOT / "minilm_expected.safetensors")
        print("minilm", (ROOT / "minilm_expected.safetensors").stat().st_size // 1024, "KB")


if __name__ == "__main__":
    main()
