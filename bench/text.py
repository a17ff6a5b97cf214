"""Texts into classes, by what cross-validation chose: python bench/text.py DIR

DIR holds `newsgroups20/` with ``train.jsonl.gz`` and ``test.jsonl.gz``: one object a line, ``group`` and ``text``; 20
Newsgroups by date, headers and all. ``accuracy20`` is over all classes, ``accuracy4`` over four of them that are often
used (atheism, graphics, medicine, Christianity). Method and smoothing are chosen by cross-validation within the part
that teaches; the part that judges is read by what was chosen, and by the baselines: scikit-learn's naive Bayes as it is
by default, and the most frequent class. Every class is that of the ONNX model; ``onnx_equal`` says for which share of
the texts scikit-learn says the same. Ends with one line of JSON.

With `maintenance_logs/` beside it, it prints what `categorize` makes of logs without classes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB

from tocsin.detect.categorize import Categorize
from tocsin.models.text import TextClassifier, train, version
from tocsin.testing import feed, rows

FOUR = ("alt.atheism", "comp.graphics", "sci.med", "soc.religion.christian")


def texts(path: Path, groups: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The texts and classes of a file, or of some of its classes."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        read = [json.loads(line) for line in file]
    read = [row for row in read if not groups or row["group"] in groups]
    return [row["text"] for row in read], [row["group"] for row in read]


def judged(folder: Path, groups: Sequence[str] = ()) -> dict[str, Any]:
    """Accuracy of what was chosen, through its ONNX model, and of the baselines."""
    teach, judge = texts(folder / "train.jsonl.gz", groups), texts(folder / "test.jsonl.gz", groups)
    begin = time.perf_counter()
    model = train(*teach)
    taught_s = time.perf_counter() - begin
    manifest, files = version("news", "text", model, judge)
    classifier = TextClassifier(manifest, files, "bench")
    begin = time.process_time()
    classes, _ = classifier.classify(judge[0])
    ms = (time.process_time() - begin) / len(classes) * 1e3
    vectoriser = TfidfVectorizer()
    default = MultinomialNB().fit(vectoriser.fit_transform(teach[0]), teach[1])
    wanted = np.array(judge[1])
    figures = {
        "accuracy": round(float(np.mean(np.array(classes) == wanted)), 4),
        "default_naive_bayes": round(float(default.score(vectoriser.transform(judge[0]), judge[1])), 4),
        "most_frequent": round(Counter(judge[1]).most_common(1)[0][1] / len(wanted), 4),
        "onnx_equal": round(float(np.mean(np.array(classes) == np.array(model.predict(judge[0])))), 5),
        "ms_per_text": round(ms, 3),
    }
    print(f"{len(set(wanted))} classes: {len(teach[0]):,} texts teach ({taught_s:.0f} s), {len(wanted):,} judge")
    for candidate, accuracy in model.accuracies.items():
        chosen = "  <- chosen" if candidate == model.chosen else ""
        print(f"  cross-validation {candidate.method} {candidate.smoothing:g}: {accuracy:.4f}{chosen}")
    print(f"  {figures}")
    return figures


def logs(path: Path) -> dict[str, Any]:
    """What `categorize` makes of a log: how many categories, and the messages that it thinks rarest."""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        problems = [row["PROBLEM"] for row in csv.DictReader(file)]
    given = rows({"text": problems})
    begin = time.process_time()
    left = feed(Categorize(), given, chop=500).to_pydict()
    us = (time.process_time() - begin) / len(problems) * 1e6
    counts = Counter(left["category_text"])
    again = sum(count > 1 for count in left["category_count"]) / len(problems)
    high = [text for text, score in zip(problems, left["score"], strict=True) if score is not None and score >= 75]
    print(f"{len(problems):,} messages, {len(counts):,} categories; the largest: {counts.most_common(3)}")
    return {
        "messages": len(problems), "categories": len(counts), "seen_before": round(again, 3),
        "scored_75": len(high), "us_per_message": round(us, 1),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    log = folder / "maintenance_logs" / "aircraft_maintenance_logs.csv"
    kept = logs(log) if log.exists() else None
    four, all_ = judged(folder / "newsgroups20", FOUR), judged(folder / "newsgroups20")
    print(
        json.dumps(
            {
                "accuracy20": all_["accuracy"], "accuracy4": four["accuracy"], "all": all_, "four": four, "logs": kept,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
