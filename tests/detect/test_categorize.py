"""Near-duplicate messages, and rarity: known messages, a rare one, a log in which everything is new."""

from __future__ import annotations

import numpy as np

from tocsin.detect.categorize import Categorize
from tocsin.testing import feed, rows


def test_messages_that_differ_by_numbers_and_a_word_are_one_category() -> None:
    texts = ["Node 3 started in 20 ms", "node 17 started in 4 ms", "Node 3 has started in 20 ms", "Disk full"]
    left = feed(Categorize(), rows({"text": texts}))
    assert left["category_count"].to_pylist() == [1, 2, 3, 1]
    assert len(set(left["category"].to_pylist())) == 2


def test_similarity_says_what_is_one_category() -> None:
    texts = ["oil pump leaking", "oil pump noisy"]  # two words of four
    assert feed(Categorize(similarity=0.5), rows({"text": texts}))["category_count"].to_pylist() == [1, 2]
    assert feed(Categorize(similarity=0.51), rows({"text": texts}))["category_count"].to_pylist() == [1, 1]


def test_a_rare_message_scores_by_the_share_of_messages_as_rare() -> None:
    texts = [["pump started", "pump stopped"][i % 2] for i in range(500)]
    texts[400] = "bearing seized"
    left = feed(Categorize(learn=100, rarity=0.01), rows({"text": texts}), chop=37)
    score = left["score"].to_pylist()
    assert score[:100] == [None] * 100
    assert all(value < 1 for value in score[100:400])
    # Two of 400 messages were as new: p = 3 / 401; 100 - 25 / (log p / log 0.01).
    assert np.isclose(score[400], 100 - 25 / (np.log(3 / 401) / np.log(0.01)))


def test_where_everything_is_new_a_new_message_is_no_news() -> None:
    texts = [f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxy'[i // 100]} broke" for i in range(300)]
    score = feed(Categorize(learn=100), rows({"text": texts}))["score"].to_pylist()
    assert max(score[100:]) < 1


def test_the_category_that_was_met_longest_ago_is_forgotten() -> None:
    texts = ["first alpha", "second beta", "first alpha", "third gamma", "second beta", "first alpha"]
    left = feed(Categorize(categories_max=2), rows({"text": texts}))
    assert left["category_count"].to_pylist() == [1, 1, 2, 1, 1, 1]


def test_numbers_alone_are_a_message_and_blanks_are_none() -> None:
    left = feed(Categorize(), rows({"text": ["42", "7", " - ", None]}))
    assert left["category_count"].to_pylist() == [1, 2, None, None]
