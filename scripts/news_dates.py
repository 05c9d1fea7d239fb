#!/usr/bin/env python3
"""Publication days of CNN/DailyMail articles, for `dsrsq-data prepare --format cnn_dailymail --companion dates.tsv`.

    scripts/news_dates.py all_train.txt all_val.txt all_test.txt > dates.tsv

Reads the URL lists of github.com/abisee/cnn-dailymail (plain or gzip): an article's id is the SHA-1 of its whole line. CNN's
addresses hold the day of publication; of the Daily Mail's, which hold none, it is the day on which the Wayback Machine saw
the page, at or after publication. The third column says which it is.
"""

import argparse
import datetime
import gzip
import hashlib
import re
import sys

# /2015/02/25/..., and of 2007 with sections in between: /2007/SHOWBIZ/Movies/07/23/...
PUBLISHED = re.compile(r"cnn\.com(?::80)?/(\d{4})/(?:[A-Za-z.]+/)*(\d\d)/(\d\d)/")
CRAWLED = re.compile(r"web\.archive\.org/web/(\d{4})(\d\d)(\d\d)\d{6}")


def day_of(url):
    for kind, pattern in (("address", PUBLISHED), ("crawl", CRAWLED)):
        found = pattern.search(url)
        if found:
            try:
                return datetime.date(*map(int, found.groups())).isoformat(), kind
            except ValueError:  # digits that are no day
                continue
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+")
    arguments = parser.parse_args()
    print("id\tpublished\tfrom")
    without = 0
    for path in arguments.lists:
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                url = line.rstrip("\r\n")
                if not url:
                    continue
                found = day_of(url)
                if found is None:
                    without += 1
                    continue
                print(hashlib.sha1(url.encode()).hexdigest(), *found, sep="\t")
    if without:
        print(f"news_dates: {without} addresses without a day, left out", file=sys.stderr)


if __name__ == "__main__":
    main()
