#!/usr/bin/env python3
"""Key-value retrieval (Liu et al. 2023) over lengths and depths, for a needle map: KEYS pairs of random UUIDs, the asked one at each of
DEPTHS evenly spaced places, QUESTIONS times.

    scripts/make_kv_retrieval.py --keys 10,20,40 --depths 5 --questions 4 --output runs/needle
    build/bin/dsrsq-data prepare runs/needle/kv-retrieval-*.jsonl --format kv_retrieval --split-by input --tokenizer T --output needle.h5
    build/bin/dsrsq-eval --checkpoint RUN --suite kv_retrieval --set data.train=needle.h5
"""
import argparse
import json
import os
import random
import uuid


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", default="10,20,40", help="pairs of a context, a file each")
    parser.add_argument("--depths", type=int, default=5)
    parser.add_argument("--questions", type=int, default=4, help="of each depth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, metavar="FOLDER")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    for keys in map(int, args.keys.split(",")):
        if keys < args.depths or args.depths < 1:
            parser.error(f"--keys {keys}: expected at least as many pairs as --depths, and a depth")
        rng = random.Random(f"{args.seed} {keys}")
        with open(os.path.join(args.output, f"kv-retrieval-{keys}_keys.jsonl"), "w", encoding="utf-8") as file:
            for question in range(args.depths * args.questions):
                pairs = [[str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2)] for _ in range(keys)]
                # In the middle of its share of the context.
                key, value = pairs[int((question % args.depths + 0.5) * keys / args.depths)]
                file.write(json.dumps({"ordered_kv_records": pairs, "key": key, "value": value}) + "\n")


if __name__ == "__main__":
    main()
