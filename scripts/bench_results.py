"""What the scripts bench_*.py share: quantiles, and results in the format of dsrsq-bench."""

import datetime
import json
import os
import platform
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def quantile(values, q):
    """Of ascending values, by linear interpolation."""
    at = q * (len(values) - 1)
    low = int(at)
    return values[low] + (at - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def commit():
    """Where the tree is a copy without .git, DSRSQ_COMMIT says what it was made from."""
    if "DSRSQ_COMMIT" in os.environ:
        return os.environ["DSRSQ_COMMIT"]
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT,
                           capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def write_results(path, records, device, versions, seeds):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    command = " ".join([os.path.basename(sys.argv[0])] + sys.argv[1:])
    provenance = {"commit": commit(), "command": command, "device": device, "date": now,
                  "versions": {**versions, "python": platform.python_version()}, "seeds": seeds}
    with open(path, "w") as file:
        json.dump({"provenance": provenance, "records": records}, file, indent=1)
        file.write("\n")
    print("wrote", path)
