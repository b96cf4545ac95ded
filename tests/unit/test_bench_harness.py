"""The arithmetic behind every figure in bench/: intervals, dropped rounds, gates, verdicts, and the talk between processes."""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCH = Path(__file__).parents[2] / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "contestants")]

import figures  # noqa: E402
import harness  # noqa: E402
import rows  # noqa: E402
import standings  # noqa: E402
from figures import Bar, Gate, Round  # noqa: E402

PASSED = Gate(state="passed", text="")
BAR = Bar(name="B0", what="made up", goal=3.0, floor=2.0)


def form(rounds=3, warm_ups=1):
    return harness.Form(full=False, rounds=rounds, warm_ups=warm_ups, scale=1.0, mixes=("a",), core=0)


def calm(seconds):
    return Round(wall_s=seconds, cpu_s=seconds)


def test_interval_of_the_median_agrees_with_its_exact_distribution():
    # Of an odd number n of values, the median of a resample is at most the k-th smallest if at least (n + 1) / 2 of the n draws
    # are among the k smallest: a binomial probability, no resampling needed.
    n = 15
    values = np.sort(np.random.default_rng(3).lognormal(1.0, 0.3, size=n))
    found = figures.interval(np.random.default_rng(4).permutation(values))
    at_most = stats.binom.sf((n - 1) // 2, n, np.arange(0, n + 1) / n)  # at most the k-th smallest, k = 0..n
    rounding = 4 * (0.025 * 0.975 / 10_000) ** 0.5
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        rank = int(np.flatnonzero(values == end)[0]) + 1
        assert at_most[rank - 1] - rounding <= share <= at_most[rank] + rounding
    assert found.median == statistics.median(values)
    assert found.n == n


def test_interval_of_nothing_is_nothing_and_of_one_value_is_that_value():
    assert figures.interval([]) is None
    one = figures.interval([2.5])
    assert (one.low, one.median, one.high) == (2.5, 2.5, 2.5)


def test_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = figures.interval(rng.normal(5.0, 1.0, size=25))
        hits += found.low <= 5.0 <= found.high
    assert hits >= 200 * 0.95 - 5 * (200 * 0.95 * 0.05) ** 0.5


def test_a_pair_is_dropped_if_either_side_had_to_share_its_core():
    ours = [calm(1.0), Round(wall_s=2.0, cpu_s=1.8), calm(1.1)]
    peers = [calm(3.0), calm(3.0), Round(wall_s=3.0, cpu_s=2.7)]
    assert figures.undisturbed(ours, peers) == [(ours[0], peers[0])]
    assert not Round(wall_s=1.0, cpu_s=0.95).disturbed
    assert Round(wall_s=1.0, cpu_s=0.949).disturbed


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (180, 200), (1, 2000)])
def test_share_interval_agrees_with_scipy(right, n):
    reference = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert figures.share_interval(right, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "peer", "state"),
    [
        (0.90, 0.92, "passed"),
        (0.99, 0.92, "passed"),
        (0.80, 0.92, "void"),
        (0.55, 0.55, "undecided"),  # the peer's interval reaches below the commonest class: nobody has learnt anything
        (0.45, 0.56, "undecided"),
    ],
)
def test_accuracy_gate(ours, peer, state):
    gate = figures.same_accuracy(ours, peer, n=200, majority=0.5)
    assert gate.state == state
    assert f"ours {100 * ours:.1f}, peer {100 * peer:.1f}" in gate.text
    assert ("too few updates to tell" in gate.text) == (state == "undecided")


def test_answers_gate():
    answers = np.random.default_rng(0).random((20, 2))
    assert figures.same_answers(answers, answers + 9e-5, 1e-4).state == "passed"
    assert figures.same_answers(answers, answers + 1.1e-4, 1e-4).state == "void"
    assert figures.same_answers(answers, answers[:19], 1e-4).state == "void"
    assert figures.same_answers(answers, np.full_like(answers, np.nan), 1e-4).state == "void"


@pytest.mark.parametrize(
    ("low", "high", "gate", "verdict"),
    [
        (3.0, 4.0, "passed", "goal"),
        (2.9, 4.0, "passed", "floor"),
        (1.9, 4.0, "passed", "below the floor"),
        (3.5, 4.0, "void", "void"),
        (3.5, 4.0, "undecided", "goal"),
    ],
)
def test_the_claim_is_the_lower_end(low, high, gate, verdict):
    figure = figures.Interval(median=3.6, low=low, high=high, n=9)
    assert BAR.verdict(figure, Gate(state=gate, text="")) == verdict


def test_the_claim_is_the_upper_end_where_less_is_better():
    bar = Bar(name="B9a", what="memory", goal=0.8, floor=1.0, higher_is_better=False)
    verdicts = [bar.verdict(figures.Interval(median=0.7, low=0.6, high=high, n=9), PASSED) for high in (0.8, 0.9, 1.1)]
    assert verdicts == ["goal", "floor", "below the floor"]
    assert bar.verdict(None, PASSED) == "too disturbed"


def test_rounds_interleave_and_disturbed_ones_are_made_up_for():
    order = []

    def turn(name, disturbed=()):
        def run(number):
            order.append((name, number))
            return Round(wall_s=1.0, cpu_s=0.5 if number in disturbed else 1.0)

        return run

    found = harness.compete({"a": turn("a", disturbed={1}), "b": turn("b")}, form(rounds=3, warm_ups=2))
    assert order == [(name, number) for number in (-2, -1, 0, 1, 2, 3) for name in "ab"]
    assert len(found["a"]) == len(found["b"]) == 4
    assert len(figures.undisturbed(found["a"], found["b"])) == 3


def test_a_machine_that_is_never_calm_ends_the_rounds_all_the_same():
    found = harness.compete({"a": lambda _: Round(wall_s=1.0, cpu_s=0.1), "b": lambda _: calm(1.0)}, form(rounds=3))
    assert len(found["a"]) == 6
    assert len(harness.compete({"a": lambda _: Round(wall_s=1.0, cpu_s=0.1)}, form(rounds=3).once())["a"]) == 1
    assert standings.standing(BAR, "a", (found["a"], found["b"]), PASSED).verdict == "too disturbed"


def test_answers_are_checked_from_the_first_warm_up_on():
    def check(rounds):
        raise harness.ContestantError("different answers")

    turned = []
    with pytest.raises(harness.ContestantError, match="different answers"):
        harness.compete({"a": lambda number: turned.append(number) or calm(1.0)}, form(), check)
    assert turned == [-1]


def test_a_standing_holds_the_median_of_ratios_not_the_ratio_of_medians():
    ours, peers = [calm(x) for x in (1.0, 2.0, 4.0)], [calm(x) for x in (4.0, 4.0, 20.0)]
    found = standings.standing(BAR, "real", (ours, peers), PASSED, padding_ratio=2.0)
    assert found.figure.median == 4.0
    assert (found.ours_s, found.peer_s) == (2.0, 4.0)
    entry = found.to_json()
    assert (entry["bar"], entry["mix"], entry["padding_ratio"], entry["dropped_rounds"]) == ("B0", "real", 2.0, 0)
    assert "padding 2.00" in found.line()
    assert found.verdict == "floor"


def test_needed_arithmetic_counts_frozen_layers_once(tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}')
    lengths = [10, 30]
    weights = 6 * (4 * 384**2 + 2 * 384 * 1536)
    forward = 2 * weights * 40 + 4 * 6 * 384 * (10**2 + 30**2)
    count = standings.needed_gflop
    assert count(config, lengths, epochs=0, learnt_layers=None) == pytest.approx(forward / 1e9)
    assert count(config, lengths, epochs=2, learnt_layers=None) == pytest.approx(2 * 3 * forward / 1e9)
    assert count(config, lengths, epochs=10, learnt_layers=0) == pytest.approx(forward / 1e9)
    assert count(config, lengths, epochs=5, learnt_layers=2) == pytest.approx((4 + 5 * 3 * 2) * forward / 6 / 1e9)
    assert standings.Work(gflop=30.0, peak_gflops=100.0).share_of_peak(0.6) == pytest.approx(0.5)


def test_padding_ratio_of_random_batches():
    assert rows.padding_ratio([7] * 50, 8) == 1.0
    assert rows.padding_ratio([1, 9], 2) == pytest.approx(18 / 10)
    lengths = [random.Random(0).randint(2, 40) for _ in range(64)]
    assert rows.padding_ratio(lengths, 64) == pytest.approx(64 * max(lengths) / sum(lengths))


def test_synthetic_texts_are_seeded_as_long_as_they_should_be_and_can_be_learnt():
    words = [f"{a}{b}{c}word" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop" for c in "abcdefghijklmnop"]
    made = rows.synthetic("lognormal", 2000, words, seed=1)
    assert made == rows.synthetic("lognormal", 2000, words, seed=1) != rows.synthetic("lognormal", 2000, words, seed=2)
    lengths = [len(row["text"].split()) + 2 for row in made]
    assert statistics.median(lengths) == pytest.approx(22, abs=1.5)
    assert statistics.stdev(np.log(lengths)) == pytest.approx(0.6, abs=0.06)
    assert max(lengths) <= 128
    assert {len(row["text"].split()) for row in rows.synthetic("uniform", 50, words, seed=1)} == {30}
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    texts, labels = [row["text"] for row in made], [row["label"] for row in made]
    counts = CountVectorizer().fit_transform(texts)
    accuracy = MultinomialNB().fit(counts[:1500], labels[:1500]).score(counts[1500:], labels[1500:])
    assert 0.75 < accuracy < 0.99


def test_a_contestant_answers_fails_with_its_reason_and_is_pinned(tmp_path, monkeypatch):
    script = tmp_path / "echo.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(BENCH / 'contestants')!r})\n"
        "from speak import Watch, serve\n"
        "def work(number):\n"
        "    print('noise that is no answer')\n"
        "    watch = Watch()\n"
        "    with watch('train'):\n"
        "        sum(range(300_000))\n"
        "    return watch.answer(number=number, cores=sorted(os.sched_getaffinity(0)), threads=os.environ['OMP_NUM_THREADS'])\n"
        "def fail():\n"
        "    raise ValueError('no such thing')\n"
        "serve(('numpy',), round=work, fail=fail, die=lambda: os._exit(7))\n"
    )
    monkeypatch.setattr(harness, "CONTESTANTS", tmp_path)
    core = max(__import__("os").sched_getaffinity(0))
    with harness.Contestant("echo.py", core=core) as contestant:
        done = contestant.round(number=5)
        assert done.facts["number"] == 5
        assert done.facts["cores"] == [core]
        assert done.facts["threads"] == "1"
        assert done.cpu_s > 0
        assert done.wall_s == pytest.approx(done.facts["stages"]["train"], abs=1e-4)
        assert contestant.ask("facts")["versions"] == {"numpy": np.__version__}
        with pytest.raises(harness.ContestantError, match=r"echo.py failed at 'fail'[\s\S]*no such thing"):
            contestant.ask("fail")
        assert contestant.round(number=6).facts["number"] == 6
        with pytest.raises(harness.ContestantError, match="exit code 7"):
            contestant.ask("die")
