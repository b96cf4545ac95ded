"""Splits against an independent count; fingerprints against hashlib by hand; targets against a table."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.fingerprint import order_digest, row_digest, rows_digest, sum_digests
from regraft.data.splits import largest_remainder, number_strata, split_rows
from regraft.data.targets import as_kind, is_missing, target_kind

SHARES = {"valid": 0.1, "test": 0.2}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@settings(max_examples=100, deadline=None)
@given(total=st.integers(0, 500), cuts=st.tuples(st.integers(0, 10), st.integers(0, 10)))
def test_largest_remainder_is_hamiltons_method(total, cuts):
    low, high = sorted(cuts)
    shares = [Fraction(low, 10), Fraction(high - low, 10), Fraction(10 - high, 10)]
    exact = [total * share for share in shares]
    left = total - sum(math.floor(quota) for quota in exact)
    order = sorted(range(3), key=lambda i: (-(exact[i] - math.floor(exact[i])), i))
    expected = [math.floor(quota) + (i in order[:left]) for i, quota in enumerate(exact)]
    assert largest_remainder(total, [float(share) for share in shares]) == expected


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_split_is_stratified_disjoint_and_complete(sizes, seed):
    strata = np.repeat(np.arange(len(sizes)), sizes)
    strata = np.random.default_rng(seed).permutation(strata)
    keys = np.arange(len(strata), dtype=np.uint64) * 7919
    found = split_rows(keys, strata, SHARES, seed)
    assert list(found) == ["train", "valid", "test"]
    assert np.array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(len(strata)))
    for rows in found.values():
        assert np.array_equal(rows, np.sort(rows))
    counts = {name: Counter(strata[rows].tolist()) for name, rows in found.items()}
    wanted = {stratum: largest_remainder(size, [0.7, 0.1, 0.2]) for stratum, size in enumerate(sizes)}
    for i, name in enumerate(found):
        if any(row[i] for row in wanted.values()) and all(any(row[k] for row in wanted.values()) for k in (1, 2)):
            assert counts[name] == Counter({s: row[i] for s, row in wanted.items() if row[i]})
    assert all(counts["train"][stratum] >= 1 for stratum in range(len(sizes)))


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.integers(0, 30), min_size=20, max_size=200), seed=st.integers(0, 100))
def test_equal_inputs_stay_together(keys, seed):
    found = split_rows(np.array(keys, dtype=np.uint64), np.array([key % 3 for key in keys]), SHARES, seed)
    where = defaultdict(set)
    for name, rows in found.items():
        for row in rows:
            where[keys[row]].add(name)
    assert all(len(names) == 1 for names in where.values())
    assert sum(map(len, found.values())) == len(keys)


def test_duplicates_do_not_change_the_share_of_a_split():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 8000, 20_000).astype(np.uint64)
    found = split_rows(keys, np.zeros(20_000, dtype=int), SHARES, 0)
    assert [len(rows) for rows in found.values()] == [14_000, 2_000, 4_000]
    doubles = Counter(keys.tolist())
    share = {name: np.mean([doubles[keys[row]] > 3 for row in rows]) for name, rows in found.items()}
    assert max(share.values()) - min(share.values()) < 0.1  # not all the doubles in one split


def test_same_seed_same_split_and_other_seed_other_split():
    keys, strata = np.arange(300, dtype=np.uint64), np.arange(300) % 2
    one, same, other = (split_rows(keys, strata, SHARES, seed)["test"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_draw_does_not_depend_on_key_values():
    strata = np.arange(100) % 2
    one = split_rows(np.arange(100, dtype=np.uint64), strata, SHARES, 3)["test"]
    other = split_rows(np.arange(100, dtype=np.uint64)[::-1] * 13, strata, SHARES, 3)["test"]
    assert np.array_equal(one, other)


def test_many_small_classes_leave_no_split_empty():
    strata = np.repeat(np.arange(20), 4)
    counts = {name: len(rows) for name, rows in split_rows(np.arange(80, dtype=np.uint64), strata, SHARES, 0).items()}
    assert counts == {"train": 52, "valid": 8, "test": 20}


def test_small_and_extreme_shares_keep_training_rows():
    strata = np.repeat(np.arange(3), 3)
    found = split_rows(np.arange(9, dtype=np.uint64), strata, {"valid": 0.5, "test": 0.49}, 0)
    assert Counter(strata[found["train"]].tolist()) == {0: 1, 1: 1, 2: 1}


def test_number_strata_are_tenths():
    values = np.random.default_rng(0).permutation(1000).astype(float)
    strata = number_strata(values)
    assert Counter(strata.tolist()) == dict.fromkeys(range(10), 100)
    assert all(values[strata == 0] < values[strata == 9].min())


def by_hand(row: tuple[str, ...]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(value.encode()).digest() for value in row)).digest()


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), seed=st.randoms())
def test_digests_are_what_the_docstring_says(rows, seed):
    shuffled = rows[:]
    seed.shuffle(shuffled)
    total = sum(int.from_bytes(by_hand(row), "little") for row in rows) % 2**256
    assert rows_digest(rows) == rows_digest(shuffled) == f"{total:064x}"
    assert order_digest(rows) == hashlib.sha256(b"".join(map(by_hand, rows))).hexdigest()
    assert (order_digest(rows) == order_digest(shuffled)) == (rows == shuffled)
    assert rows_digest(rows) != rows_digest([*rows, rows[0], rows[0]])  # an exclusive or would not see a pair
    stacked = np.frombuffer(b"".join(map(by_hand, rows)), dtype=np.uint8).reshape(-1, 32)
    assert sum_digests(stacked) == total


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), data=st.data())
def test_any_change_of_one_character_changes_both_digests(rows, data):
    i, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 1))
    value = rows[i][column]
    at = data.draw(st.integers(0, len(value)))
    char = data.draw(st.characters(exclude_categories=["Cs"]))
    changed = value[:at] + char + value[at + data.draw(st.integers(0, 1)) :]
    row = (changed, rows[i][1]) if column == 0 else (rows[i][0], changed)
    other = [*rows[:i], row, *rows[i + 1 :]]
    assert (rows_digest(rows) == rows_digest(other)) == (changed == value)
    assert (order_digest(rows) == order_digest(other)) == (changed == value)


def test_values_do_not_run_into_each_other():
    assert rows_digest([("ab", "c")]) != rows_digest([("a", "bc")])
    assert row_digest(("", None)) != row_digest((None, ""))
    assert row_digest((1, True, 0.5)) == row_digest(("1", "true", "0.5"))


@pytest.mark.parametrize(
    ("values", "typed", "kind", "noted"),
    [
        (["1", "0", "-12"], False, "int", True),
        (["1", "0"], True, "str", False),
        (["01", "1"], False, "str", False),
        (["1", "a"], False, "str", False),
        (["99999999999999999999"], False, "str", False),
        (["true", "False"], False, "bool", True),
        (["true", "maybe"], False, "str", False),
        ([1, 2], True, "int", False),
        ([True, False], True, "bool", False),
        ([1.0, 2.0], True, "int", True),
        ([1.0, 2.5], True, "float", False),
        ([b"x"], True, "other", False),
    ],
)
def test_target_kinds(values, typed, kind, noted):
    found, note = target_kind(values, typed)
    assert found == kind
    assert bool(note) is noted


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("7", "int", 7),
        ("x", "int", "x"),
        (7.0, "int", 7),
        ("TRUE", "bool", True),
        ("no", "bool", "no"),
        ("0.5", "float", 0.5),
        ("x", "float", "x"),
        (3, "float", 3.0),
        (7, "str", "7"),
        (True, "str", "true"),
        (b"x", "other", b"x"),
    ],
)
def test_as_kind(value, kind, expected):
    got = as_kind(value, kind)
    assert got == expected
    assert type(got) is type(expected)


def test_missing_values():
    assert [is_missing(value) for value in (None, "", " \n", float("nan"), 0, False, "0")] == [True] * 4 + [False] * 3
