"""What scripts/plot.py draws: results.json of dsrsq-eval, metrics.jsonl of dsrsq-train, and numbers as text."""

import json
import math
import os
from dataclasses import dataclass, field


class InputError(Exception):
    """One line for the user: where, what is wrong."""


@dataclass
class Record:
    value: float
    unit: str
    low: float
    high: float


@dataclass
class Results:
    rows: list[str] = field(default_factory=list)  # in order of appearance
    values: dict[tuple[str, str], Record] = field(default_factory=dict)  # (row, metric)
    provenance: list[tuple[str, dict]] = field(default_factory=list)

    def get(self, row: str, metric: str) -> Record | None:
        record = self.values.get((row, metric))
        return record if record and math.isfinite(record.value) else None

    def has(self, metric: str) -> bool:
        return any(self.get(row, metric) for row in self.rows)


@dataclass
class Run:
    name: str
    series: dict[str, tuple[list[float], list[float]]]  # key -> steps, values

    def get(self, key: str) -> tuple[list[float], list[float]]:
        return self.series.get(key, ([], []))


# ---- reading ----

def number(value: object) -> float:
    """What is not finite is written as null or as a word."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def read_results(paths: list[str]) -> Results:
    results, loaded, origin = Results(), [], {}
    for path in paths:
        try:
            content = json.loads(read_text(path))
            loaded.append((path, content["records"]))
            results.provenance.append((path, content["provenance"] or {}))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: expected an object with provenance and records, as dsrsq-eval writes it") from error
    try:
        several = len({record["case"] for _, records in loaded for record in records}) > 1
        for path, records in loaded:
            for record in records:
                row = f"{record['case']}: {record['method']}" if several else record["method"]
                key = (row, record["metric"])
                if key in results.values:
                    raise InputError(f"{path}: {key[1]} of {row} stands twice (also in {origin[key]}); name the rows apart: "
                                     "dsrsq-eval --checkpoint ROW=FOLDER")
                low, high = record.get("ci", (math.nan, math.nan))
                results.values[key] = Record(number(record["value"]), record["unit"], number(low), number(high))
                origin[key] = path
                if row not in results.rows:
                    results.rows.append(row)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a record is not as dsrsq-eval writes it: {error!r}") from error
    return results


def trace_pages(results: Results) -> list[tuple[str, list[str]]]:
    """Folders that dsrsq-eval --trace wrote beside a results.json, and their pages of single questions in order."""
    found = []
    for path, _ in results.provenance:
        folder = os.path.join(os.path.dirname(path), "trace")
        if os.path.isfile(os.path.join(folder, "index.html")):
            found.append((folder, sorted(name for name in os.listdir(folder) if name.endswith(".html") and name != "index.html")))
    return found


def read_run(argument: str) -> Run:
    name, equals, folder = argument.partition("=")
    if not equals or not name or not folder:
        raise InputError(f"--runs {argument}: expected name=RUN_FOLDER")
    path = os.path.join(folder, "metrics.jsonl")
    series: dict[str, tuple[list[float], list[float]]] = {}
    lines = read_text(path).splitlines(keepends=True)
    for index, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            step = entry["step"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if index == len(lines) and not line.endswith("\n"):
                break  # the run is writing this line
            raise InputError(f"{path}:{index}: expected a JSON object with a step") from error
        for key, value in entry.items():
            if key not in ("step", "time"):
                steps, values = series.setdefault(key, ([], []))
                steps.append(step)
                values.append(number(value))
    return Run(name, series)


# ---- numbers as text: the units and digits of the C++ table ----

def significant(value: float) -> str:
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(2 - magnitude, 0), 9)}f}"


def scale_of(value: float, unit: str) -> tuple[float, str]:
    if unit == "s":
        return (1e3, " ms") if abs(value) < 1 else (1, " s")
    if unit == "FLOP":
        return 1e-9, " G"
    if unit == "bytes":
        for limit, factor, suffix in ((1e3, 1, " B"), (1e6, 1e-3, " KB"), (1e9, 1e-6, " MB")):
            if abs(value) < limit:
                return factor, suffix
        return 1e-9, " GB"
    return 1, ""


def format_value(record: Record | None, interval: bool = False) -> str:
    if record is None:
        return "n/a"
    factor, suffix = scale_of(record.value, record.unit)
    write = (lambda x: f"{x:.3f}") if record.unit == "share" else (lambda x: significant(x * factor))
    text = write(record.value) + suffix
    if interval and math.isfinite(record.low) and math.isfinite(record.high):
        text += f" [{write(record.low)}, {write(record.high)}]"
    return text
