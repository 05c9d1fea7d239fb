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
    shape: dict = field(default_factory=dict)
    baseline: str = ""
    # Paired, to the row `baseline`: value and unit of this record's, its 95 % interval; p of a two-sided test.
    difference: "Record | None" = None
    p: float = math.nan


@dataclass
class Needle:
    """One cell of a needle map: `value` of the questions whose answer begins at this depth."""
    case: str
    row: str
    context_tokens: float
    depth: float
    questions: int
    value: float
    low: float
    high: float


@dataclass
class Results:
    rows: list[str] = field(default_factory=list)  # in order of appearance
    values: dict[tuple[str, str], Record] = field(default_factory=dict)  # (row, metric)
    provenance: list[tuple[str, dict]] = field(default_factory=list)
    name: str = ""
    needles: list[Needle] = field(default_factory=list)  # records at a depth, which are no rows' metrics

    def get(self, row: str, metric: str) -> Record | None:
        record = self.values.get((row, metric))
        return record if record and math.isfinite(record.value) else None

    def has(self, metric: str, rows: list[str] | None = None) -> bool:
        return any(self.get(row, metric) for row in (self.rows if rows is None else rows))

    def sweeps(self) -> dict[str, list[tuple[float, str]]]:
        """Methods that were measured at several budgets: {method: [(budget, row)] from the smallest}. A row is called
        METHOD@BUDGET, the budget a share of the context, written as 12%, or a number of tokens."""
        found: dict[tuple[str, bool], list[tuple[float, str]]] = {}
        for row in self.rows:
            method, at, text = row.rpartition("@")
            try:
                budget = float(text.removesuffix("%"))
            except ValueError:
                continue
            if at and method:
                found.setdefault((method, text.endswith("%")), []).append((budget, row))
        shares = any(percent for (_, percent), rows in found.items() if len(rows) > 1)  # one axis: not shares and tokens
        return {method: sorted(rows) for (method, percent), rows in found.items() if len(rows) > 1 and percent == shares}

    def single(self) -> list[str]:
        """Rows that are not a point of a method's sweep."""
        swept = {row for points in self.sweeps().values() for _, row in points}
        return [row for row in self.rows if row not in swept]


@dataclass
class Run:
    name: str
    series: dict[str, tuple[list[float], list[float]]]  # key -> steps, values
    source: str = ""  # metrics.jsonl
    provenance: dict = field(default_factory=dict)

    def get(self, key: str) -> tuple[list[float], list[float]]:
        return self.series.get(key, ([], []))


def context_points(results: Results, row: str, metric: str) -> list[tuple[float, Record]]:
    """[(context tokens, record)] of dsrsq-eval --context-lengths, from the shortest; metric: loss, perplexity, tokens_read."""
    found = [(record.shape["context_tokens"], record) for name, key in results.values
             if name == row and key.startswith(f"{metric}_context_") and (record := results.get(row, key))]
    return sorted(found, key=lambda point: point[0])


def context_columns(results: Results, metric: str) -> list[tuple[str, str]]:
    """Metric and heading of each length that some row was measured at."""
    lengths = {int(length) for row in results.rows for length, _ in context_points(results, row, metric)}
    return [(f"{metric}_context_{length}", f"{length:,} tokens") for length in sorted(lengths)]


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


def read_json(path: str) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


def read_record(record: dict) -> Record:
    def interval(of: dict) -> list[float]:
        low, high = of.get("ci", (math.nan, math.nan))
        return [number(low), number(high)]
    read = Record(number(record["value"]), record["unit"], *interval(record), record.get("shape", {}), record.get("baseline", ""))
    if difference := record.get("difference"):
        read.difference = Record(number(difference["value"]), read.unit, *interval(difference))
        read.p = number(difference.get("p"))
    return read


def read_needle(record: dict) -> Needle:
    shape, read = record["shape"], read_record(record)
    return Needle(record["case"], record["method"], number(shape["context_tokens"]), number(shape["depth"]), int(shape["questions"]),
                  read.value, read.low, read.high)


def read_results(paths: list[str], name: str = "") -> Results:
    results, loaded, origin = Results(name=name), [], {}
    for path in paths:
        try:
            content = read_json(path)
            loaded.append((path, content["records"]))
            results.provenance.append((path, content["provenance"] or {}))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: expected an object with provenance and records, as dsrsq-eval writes it") from error
    try:
        several = len({record["case"] for _, records in loaded for record in records}) > 1
        for path, records in loaded:
            for record in records:
                if record["metric"].endswith("_at_depth"):
                    results.needles.append(read_needle(record))
                    continue
                row = f"{record['case']}: {record['method']}" if several else record["method"]
                key = (row, record["metric"])
                if key in results.values:
                    raise InputError(f"{path}: {key[1]} of {row} stands twice (also in {origin[key]}); name the rows apart: "
                                     "dsrsq-eval --checkpoint ROW=FOLDER, or give each file a section: --results NAME=FILE")
                results.values[key] = read_record(record)
                origin[key] = path
                if row not in results.rows:
                    results.rows.append(row)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a record is not as dsrsq-eval writes it: {error!r}") from error
    return results


def read_sections(arguments: list[str]) -> list[Results]:
    """Of [NAME=]FILE: the files of one name are one section, those without a name another."""
    files: dict[str, list[str]] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or os.path.exists(argument):
            name, path = "", argument
        files.setdefault(name.strip(), []).append(path)
    return [read_results(paths, name) for name, paths in files.items()]


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
    origin = os.path.join(folder, "run.json")
    provenance = read_json(origin) if os.path.exists(origin) else {}
    if not isinstance(provenance, dict):
        raise InputError(f"{origin}: expected an object, as dsrsq-train writes it")
    return Run(name, series, path, provenance)


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
