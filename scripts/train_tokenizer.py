#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer (GPT-2's pre-tokenisation) and writes a Hugging Face tokenizer.json.

    .venv/bin/python scripts/train_tokenizer.py --input train.jsonl.gz --format jsonl --vocab-size 8192 \
        --output tokenizer.json

Files may be plain or gzip. Formats: `text` (each line), `jsonl` (the strings in --fields of each record, lists of
strings too; the default fields are those of the project's question-answering records), `nq_simplified`
(document_text and question_text of Natural Questions).
"""

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|eos|>"]
BYTES = 256
QA_FIELDS = ["question", "context", "documents", "answers"]
NQ_FIELDS = ["question_text", "document_text"]


def stop(message: str) -> None:
    sys.exit(f"train_tokenizer: {message}")


class ProgressLine:
    """Bytes read so far with an ETA: redrawn on a terminal, else a line every 15 seconds."""

    def __init__(self, paths: list[str]) -> None:
        self.total = sum(os.path.getsize(p) for p in paths)
        self.before = 0  # bytes of the files that are done
        self.start = self.shown = time.monotonic()

    def show(self, done_in_file: int, last: bool = False) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not last and now - self.shown < (0.1 if terminal else 15):
            return
        self.shown = now
        done = self.before + done_in_file
        seconds = max(now - self.start, 1e-9)
        left = (self.total - done) * seconds / max(done, 1)
        line = f"read {done / 1e6:.1f}/{self.total / 1e6:.1f} MB {100 * done / max(self.total, 1):.0f}% | ETA {left:.0f} s"
        print(("\r\x1b[K" if terminal else "") + line, end="" if terminal and not last else "\n", file=sys.stderr)


def read_lines(path: str, progress: ProgressLine) -> Iterator[tuple[int, str]]:
    """Numbered lines. Progress counts the bytes of the file itself, compressed or not."""
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if compressed else raw
        try:
            for number, line in enumerate(stream, 1):
                if number % 64 == 0:
                    progress.show(raw.tell())
                yield number, line.decode("utf-8", errors="replace")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            stop(f"{path}: {error}")
    progress.before += os.path.getsize(path)


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, dict):  # a document {title, text}
        for item in value.values():
            yield from strings_in(item)


def read_texts(args: argparse.Namespace, progress: ProgressLine) -> Iterator[str]:
    for path in args.input:
        found = False
        for number, line in read_lines(path, progress):
            if args.format == "text":
                found = True
                yield line
                continue
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                stop(f"{path}:{number}: not valid JSON: {error}")
            if not isinstance(record, dict):
                stop(f"{path}:{number}: expected a JSON object, got {type(record).__name__}")
            for field in args.fields:
                for text in strings_in(record.get(field)):
                    found = True
                    yield text
        if not found:
            stop(f"{path}: no text found as format {args.format}"
                 + (f" in the fields {', '.join(args.fields)}; choose others by --fields" if args.format != "text" else ""))
    progress.show(0, last=True)


def train(texts: Iterator[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", action="append", required=True, metavar="FILE", help="may be repeated")
    parser.add_argument("--format", choices=["text", "jsonl", "nq_simplified"], default="jsonl")
    parser.add_argument("--fields", nargs="+", metavar="NAME", help="fields of a jsonl record, default: " + " ".join(QA_FIELDS))
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--min-frequency", type=int, default=2, help="a pair that occurs less often is not merged")
    parser.add_argument("--output", required=True, metavar="FILE")
    args = parser.parse_args(argv)
    if args.fields and args.format != "jsonl":
        parser.error("--fields belongs to --format jsonl")
    smallest = BYTES + len(SPECIAL_TOKENS)
    if args.vocab_size < smallest:
        parser.error(f"--vocab-size {args.vocab_size} is below {smallest}, the bytes and special tokens")
    args.fields = args.fields or (NQ_FIELDS if args.format == "nq_simplified" else QA_FIELDS)
    for path in args.input:
        if not os.path.isfile(path):
            parser.error(f"--input {path}: no such file")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    tokenizer = train(read_texts(args, ProgressLine(args.input)), args.vocab_size, args.min_frequency)
    size = tokenizer.get_vocab_size()
    temporary = f"{args.output}.tmp-{os.getpid()}"
    tokenizer.save(temporary)
    os.replace(temporary, args.output)
    print(f"{args.output}: {size} tokens" + ("" if size == args.vocab_size else f" (asked for {args.vocab_size}: the text has no more pairs)"))


if __name__ == "__main__":
    main()
