"""What results made by Python scripts say about themselves, in the form of dsrsq-eval's results.json."""

import datetime
import json
import os
import subprocess


def commit():
    """Where the tree is a copy without .git, DSRSQ_COMMIT says what it was made from."""
    if os.environ.get("DSRSQ_COMMIT"):
        return os.environ["DSRSQ_COMMIT"]
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


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
