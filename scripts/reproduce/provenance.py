"""What results made by Python scripts say about themselves, in the form of dsrsq-eval's results.json."""

import datetime
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from bench_results import commit  # noqa: E402

COMMIT = commit()  # of the start: a run of minutes must not be blamed on what was edited meanwhile


def device_name(device):
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


def write_results(path, command, device, records, seeds=()):
    import torch
    import transformers

    provenance = {"commit": COMMIT, "command": command, "date": datetime.datetime.now(datetime.timezone.utc).strftime("%FT%TZ"),
                  "device": device_name(device), "seeds": list(seeds),
                  "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    path.write_text(json.dumps({"provenance": provenance, "records": records}, indent=1) + "\n")
