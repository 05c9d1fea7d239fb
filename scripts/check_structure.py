#!/usr/bin/env python3
"""Checks the rules that keep the tree in shape (see README, "Layout"). Prints each violation; exit code 1 if any.

    scripts/check_structure.py [ROOT]
"""
import re
import sys
from pathlib import Path

# A folder may include itself and any folder of an earlier row, never one of its own row.
LAYERS = [
    ["core"],
    ["text"],
    ["data"],
    ["batch"],
    ["ops"],
    ["retriever", "attention", "cache"],
    ["model"],
    ["methods", "objective"],
    ["eval"],
    ["train"],
    ["bench"],
    ["registry"],
    ["apps"],
]
RANK = {name: i for i, row in enumerate(LAYERS) for name in row}
TORCH_FREE = {"core", "text", "data"}
MAX_LINES = 700

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
FREE_FUNCTION = re.compile(r"^(?!using|typedef|static_assert)[A-Za-z][^{}#=;]*\)( const)?;$", re.M)
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def layer_of(path):
    """include/dsrsq/ops/x.h -> ops; src/registry.cpp -> registry; None outside the layers."""
    parts = path.parts
    if parts[:2] == ("include", "dsrsq"):
        parts = parts[2:]
    elif parts[0] == "src":
        parts = parts[1:]
    else:
        return None
    return parts[0] if len(parts) > 1 else Path(parts[0]).stem


def check_include(path, layer, target):
    """The rule that including `target` from `path` breaks, or None."""
    if ".." in Path(target).parts and path.parts[0] != "tests":
        return "relative include; write the path from include/ or src/"
    if TORCH.match(target) and (path.parts[0] == "kernels" or layer in TORCH_FREE):
        return "torch header in a torch-free folder"
    if target.startswith("spdlog/") and path != Path("src/core/logging.cpp"):
        return "spdlog is for src/core/logging.cpp alone: its fmt clashes with torch's"
    if target.startswith("kernels/") and path.parts[0] != "kernels":
        if not (path.match("src/ops/*_cuda.cpp")):
            return "only src/ops/*_cuda.cpp include launchers"
    if not target.startswith("dsrsq/"):
        return None
    if path.parts[0] == "kernels":
        return "kernels/ includes nothing of dsrsq"
    parts = Path(target).parts[1:]
    other = parts[0] if len(parts) > 1 else Path(parts[0]).stem
    if path.parts[0] == "tests" or layer == other:
        return None
    if other not in RANK:
        return f"no such layer: {other}"
    if layer not in RANK:
        return f"no such layer: {layer}"
    if other == "registry" and layer != "apps":
        return "registry.h is for apps and tests"
    if RANK[other] > RANK[layer]:
        return f"upward include: {layer} may not know {other}"
    if RANK[other] == RANK[layer]:
        return f"sibling include: {layer} and {other} may not know each other"
    return None


def check_file(root, path):
    text = (root / path).read_text(encoding="utf-8")
    lines = without_comments(text).split("\n")
    layer = layer_of(path)
    if text.count("\n") > MAX_LINES:
        yield 1, f"{text.count(chr(10))} lines; at most {MAX_LINES}"
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            problem = check_include(path, layer, match.group(2))
            if problem:
                yield number, f"{match.group(2)}: {problem}"
        if "<<<" in line and path.parts[0] != "kernels":
            yield number, "kernel launch outside kernels/"
        if re.search(r"\btorch::(save|load)\b", line):
            yield number, "torch::save and torch::load accept damaged files; use core/safetensors"


def check_header(root, path):
    """A header that declares free functions has a source of its name (or name_*.cpp); its folder has tests."""
    folder = layer_of(path)
    source = root / "src" / path.relative_to("include/dsrsq").with_suffix(".cpp")
    text = without_comments((root / path).read_text(encoding="utf-8"))
    has_source = source.exists() or any(source.parent.glob(source.stem + "_*.cpp"))
    declares = FREE_FUNCTION.search(text)
    if not has_source and declares:
        line = text.count("\n", 0, declares.start()) + 1
        yield line, f"declares functions, but there is no {source.relative_to(root)}"
    if path.parent != Path("include/dsrsq") and not any((root / "tests" / folder).glob("*_test.cpp")):
        yield 1, f"no tests/{folder}/*_test.cpp"


def violations(root):
    found = []
    for top in ["include", "src", "tests", "kernels"]:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
                continue
            path = file.relative_to(root)
            found += [(path, *v) for v in check_file(root, path)]
            if top == "include":
                found += [(path, *v) for v in check_header(root, path)]
    return found


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    found = violations(root)
    for path, line, problem in found:
        print(f"{path}:{line}: {problem}", file=sys.stderr)
    print(f"structure: {len(found)} violation{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
