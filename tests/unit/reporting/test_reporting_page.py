"""The page says what the report says: every number, in both languages, of every section; nothing from outside, nothing hostile."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up import Reader, comparison, events, judged, metric, report, row, rung, subject, worst

from regraft.errors import OptionsError, UsageError
from regraft.reporting import SECTIONS
from regraft.reporting import page as page_module
from regraft.reporting.page import MOST_BYTES
from regraft.reporting.section import Section
from regraft.reporting.words import LANGUAGES, TEXTS

UNITS = {"%": 0.01, "ms": 0.001, "s": 1.0, "MB": 1.0}
FACTORS = {"points": 0.01, "unsigned": 0.01, "megabytes": 1e6}


def drawn(*subjects: Any, **options: Any) -> str:
    return page_module.page(list(subjects) or [subject()], **options).decode()


@functools.cache
def usual(language: str = "en") -> str:
    """The page of the full report, drawn once."""
    return drawn(language=language)


def value_at(source: Any, path: str) -> Any:
    for word in path.split("/"):
        word = word.replace("~1", "/").replace("~0", "~")
        source = source[int(word)] if isinstance(source, list) else source[word]
    return source


def check_numbers(html: str, subjects: list[Any]) -> int:
    """Every number on the page is the one at its path, and what is written is it, rounded as it is written."""
    found = Reader(html).numbers
    for given, text in found:
        name, _, path = given["data-path"].partition("/")
        whose = subjects[int(given.get("data-of", 0))]
        expected = value_at(
            {"report": whose.report, "manifest": whose.facts, "events": list(whose.events), "worst": whose.worst}[name], path
        )
        assert float(given["value"]) == expected, given
        written = re.fullmatch(r"(?:< )?([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?) ?(\S*)", text)
        assert written, (given, text)
        number = float(written[1].replace(",", ""))
        scale = FACTORS.get(given["data-form"], UNITS.get(written[2], 1.0))
        digits = written[1].replace(",", "").partition("e")[0].lstrip("+-").partition(".")[2]
        step = 10.0 ** -len(digits) * (10.0 ** int(written[1].partition("e")[2] or 0))
        if text.startswith("<"):
            assert 0 <= expected < number, (given, text)
        else:
            assert abs(number - expected / scale) <= 0.5000001 * step + 1e-4 * abs(number) * (len(digits) == 0), (given, text)
    return len(found)


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_every_number_is_the_reports_own(language: str):
    html = usual(language)
    assert check_numbers(html, [subject()]) > 250
    # Digits in cells that are no numbers: names and texts of data, and the number format.
    stray = [found for found in Reader(html).stray if not found[0].startswith(("lineage", "data-checks", "worst", "weak"))]
    assert stray == [("cost-0", "bf16")]


def test_a_number_that_is_not_the_reports_is_found():
    with pytest.raises(AssertionError):
        check_numbers(usual().replace('value="0.942"', 'value="0.943"', 1), [subject()])
    with pytest.raises(AssertionError):
        check_numbers(usual().replace(">94.2 %<", ">94.3 %<", 1), [subject()])


def test_numbers_of_several_targets_and_of_several_artifacts():
    parts = {"due date": judged(), "a/b~c": {**judged(("x", "y")), "verdict": "worse", "verdict_detail": comparison("worse")}}
    whole = report(
        targets=parts,
        ladder=[],
        verdict="worse",
        verdict_detail=None,
        per_class=[],
        confusion=None,
        metrics={"relative_loss": metric(0.5), "due date.accuracy": metric(0.9)},
    )
    several = subject("several", report=whole)
    html = drawn(several)
    assert check_numbers(html, [several]) > 400
    assert "Of 2 targets, the weakest verdict is: " in Reader(html).text
    both = [subject("first"), several]
    assert check_numbers(drawn(*both), both) > 600


@pytest.mark.parametrize("name", SECTIONS.names())
def test_every_section_is_drawn_from_a_full_report_and_left_out_of_an_empty_one(name: str):
    sections = Reader(usual()).sections
    assert f"{name}-0" in sections
    bare = {
        "kind": "evaluate",
        "n": 3,
        "confidence": 0.95,
        "metrics": {},
        "per_class": [],
        "confusion": None,
        "ladder": [],
        "verdict": None,
    }
    bare |= {
        "verdict_detail": None,
        "ledger": {},
        "fingerprint": None,
        "seconds": 1.0,
        "seconds_by_stage": {},
        "cost": {},
        "notes": [],
        "about": {},
    }
    empty = Reader(drawn(subject(report=bare, facts={}, events=(), worst={}))).sections
    assert set(empty) <= {"data-checks-0", "cost-0"}


def test_the_verdict_comes_first_in_one_sentence():
    text = " ".join(Reader(usual()).text.split())
    said = "fitted is better than linear-probe: +3.1 [+1.6, +4.6] points, McNemar p 0.0042, n = 400."
    assert said in text
    assert text.index(said) < text.index("Ladder")
    numbers = subject(
        report=report(
            verdict="no evidence", verdict_detail=comparison("no evidence", quantity="mae", smallest_detectable_difference=0.5)
        )
    )
    assert "No evidence that fitted and linear-probe differ: mae +0.031" in Reader(drawn(numbers)).text
    assert "优于" in Reader(usual("zh")).text


def test_a_new_key_of_the_report_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch):
    SECTIONS.add("toy", f"{__name__}:Toy")
    try:
        html = drawn(subject(report=report(toy={"answer": 42.5})))
    finally:
        SECTIONS.discard("toy")
    assert ("toy-0" in Reader(html).sections, 'data-path="report/toy/answer"' in html) == (True, True)


class Toy(Section):
    """A section of an outside package."""

    title = "metrics"

    def html(self, found: Any, page: Any) -> str:
        return found.number_at("toy/answer")


def test_nothing_comes_from_outside_and_nothing_runs():
    html = usual()
    reader = Reader(html)
    assert all(url.startswith(("data:", "#")) for url in reader.urls())
    assert not [tag for tag, _ in reader.tags if tag in {"script", "iframe", "object", "embed", "form", "base"}]
    assert not [name for _, given in reader.tags for name in given if name.startswith("on")]
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", html)
    assert "default-src 'none'" in html


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e</style>&{n}'


def test_hostile_texts_stay_texts():
    found = copy.deepcopy(report(**judged((HOSTILE, "spam"))))
    found["notes"] = [HOSTILE]
    found["ledger"] = {HOSTILE: {"count": 1, "examples": [HOSTILE]}}
    found["ladder"] = [rung(HOSTILE, 0.5, note=HOSTILE), rung("fitted", 0.9, comparison(a=HOSTILE))]
    found["verdict_detail"] = comparison(a=HOSTILE, b=HOSTILE)
    found["slices"] = [{"column": HOSTILE, "value": HOSTILE, "n": 3, "metrics": {HOSTILE: metric(0.5)}, "p_value": 0.5}]
    found["weak_slices"][0]["rule"] = HOSTILE
    found["fairness"]["groups"][0]["group"] = HOSTILE
    found["calibration"]["method"] = HOSTILE
    found["about"] = {HOSTILE: HOSTILE, "command": HOSTILE}
    shown = [{"text": HOSTILE, "left_out": 0}, {"cells": [[HOSTILE, HOSTILE]], "left_out": 0}, {"named": HOSTILE, "pieces": []}]
    shown += [
        {"picture": "https://example.org/x.png", "width": 1, "height": 1},
        {"sound": "javascript:alert(1)", "seconds": 1, "of": 1},
    ]
    bad = {**worst(), "rows": [row(0, shown, truth=HOSTILE, answer=[HOSTILE], place=HOSTILE)]}
    told = [{**line, "reason": HOSTILE} if line["event"] == "end" else line for line in events()]
    told = [{**line, "metrics": {HOSTILE: 0.5}} if line["event"] == "valid" else line for line in told]
    one = subject(HOSTILE, report=found, worst=bad, events=told)
    for html in (drawn(one), drawn(one, subject(HOSTILE))):
        reader = Reader(html)
        assert not [tag for tag, given in reader.tags if tag == "script" or "onerror" in given]
        # In a path it is needed to find the number; where it could be seen it is not.
        seen = [reader.text, *(value for _, given in reader.tags for name, value in given.items() if name != "data-path")]
        assert not [text for text in seen if "\u202e" in text]
        assert html.count("</style>") <= html.count("<style")
        assert all(url.startswith(("data:", "#")) for url in reader.urls())
        assert "alert(1)" in reader.text
    check_numbers(drawn(one), [one])


def test_both_languages_have_every_text_with_the_same_blanks():
    def blanks(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, texts in TEXTS.items():
        assert len(texts) == len(LANGUAGES), key
        if key != "notes-language":
            assert all(text.strip() for text in texts), key
            assert blanks(texts[0]) == blanks(texts[1]), key


def test_the_chinese_page_has_no_english_headings_and_says_what_stays():
    html, reader = usual("zh"), Reader(usual("zh"))
    assert '<html lang="zh">' in html
    heads = re.findall(r"<h[234]>(.*?)</h[234]>", html)
    english = {texts[0] for texts in TEXTS.values()}
    assert not english & set(heads)
    assert "说明、列名与数据保持原文" in reader.text
    with pytest.raises(OptionsError, match="does not speak 'de'"):
        drawn(language="de")


def test_ten_artifacts_full_of_pictures_stay_below_three_megabytes(monkeypatch: pytest.MonkeyPatch):
    picture = {"picture": "data:image/png;base64," + "A" * 32_000, "width": 160, "height": 160}
    full = {"wrong": 60, "judged": 400, "most": 50, "rows": [row(k, [picture]) for k in range(50)]}
    ten = [subject(f"model-{k}", worst=full) for k in range(10)]
    html = page_module.page(ten)
    assert len(html) < MOST_BYTES == 3_000_000
    assert "more rows are left out" in html.decode()
    monkeypatch.setattr(page_module, "charts", lambda: None)
    one = page_module.page(ten[:1])
    assert len(one) < MOST_BYTES
    assert one.decode().count("<article>") == 50, "one artifact shows all"
    for many in ([], ten + ten[:1]):
        with pytest.raises(UsageError, match="so many do not fit on a page"):
            page_module.page(many)


def test_without_matplotlib_the_numbers_stand_in_tables(monkeypatch: pytest.MonkeyPatch):
    with_charts = usual()
    monkeypatch.setattr(page_module, "charts", lambda: None)
    html = drawn()
    assert "pip install 'regraft[plots]'" in Reader(html).text
    assert "<figure>" in with_charts
    assert "<figure>" not in html
    assert sorted(map(str, Reader(html).numbers)) == sorted(map(str, Reader(with_charts).numbers))


def test_many_classes_are_a_picture_and_the_most_frequent_mistakes():
    labels = tuple(f"class {k}" for k in range(40))
    many = subject(report=report(**judged(labels)))
    html = drawn(many)
    check_numbers(html, [many])
    assert "The 20 most frequent of 1,560 kinds of mistakes." in Reader(html).text
    assert 'class="confusion' not in html
    sparse = subject(report=report(confusion={"labels": list(labels), "cells": [[0, 1, 7], [2, 2, 90], [3, 1, 9]]}))
    html = drawn(sparse)
    check_numbers(html, [sparse])
    assert html.index("report/confusion/cells/2/2") < html.index("report/confusion/cells/0/2")


def test_the_reliability_of_quantiles_is_drawn_from_its_own_keys():
    bins = [
        {"level": k / 10, "share_below": k / 10 + 0.02, "n": 100, "share_low": k / 10 - 0.05, "share_high": k / 10 + 0.08}
        for k in (1, 5, 9)
    ]
    sides = {"before": {"calibration_error": 0.1}, "after": {"calibration_error": 0.02}}
    one = subject(report=report(calibration={**sides, "reliability": {"before": bins, "after": bins}}))
    html = drawn(one)
    check_numbers(html, [one])
    assert 'data-path="report/calibration/reliability/after/2/share_below"' in html
    assert html.count('aria-label="Reliability: ') == 2


def test_undefined_numbers_are_dashes():
    holes = report()
    holes["metrics"]["accuracy"] = {"value": None, "low": None, "high": None, "n": 3}
    holes["metrics"]["log_loss"] = {"value": 0.5, "low": None, "high": None, "n": 1}
    holes["per_class"][0]["f1"]["value"] = None
    holes["cost"]["mfu"] = None
    one = subject(report=holes)
    check_numbers(drawn(one), [one])
    assert "None" not in Reader(drawn(one)).text
    assert "nan" not in Reader(drawn(one)).text


def test_the_same_page_twice_is_the_same_bytes():
    assert drawn() == usual()


CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def looked_at(html: str, folder: Path, width: int) -> tuple[list[str], list[str]]:
    """What a browser complains of on its console, and which addresses it asks for, beside the page itself."""
    (folder / "report.html").write_text(html, encoding="utf-8")
    net, shot = folder / "net.json", folder / "page.png"
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
    ]
    command += ["--no-first-run", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", f"--log-net-log={net}"]
    command += [f"--window-size={width},900", f"--screenshot={shot}", (folder / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert shot.stat().st_size > 5_000
    asked = [event["params"]["url"] for event in json.loads(net.read_text())["events"] if "url" in (event.get("params") or {})]
    own = re.compile(r"^(file|data|chrome[a-z-]*|devtools|about|blob):")
    outside = sorted({url for url in asked if not own.match(url) and "google" not in url})
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], outside


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_has_nothing_to_complain_of_and_asks_nobody(width: int, tmp_path: Path):
    assert looked_at(usual(), tmp_path, width) == ([], [])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_what_the_policy_of_the_page_forbids_is_seen_on_the_console(tmp_path: Path):
    planted = usual().replace("</main>", '<img src="http://127.0.0.1:9/x.png"><script>document.title = "run"</script></main>')
    complaints, asked = looked_at(planted, tmp_path, 800)
    assert len(complaints) == 2, "the browser says that a picture and a script were refused"
    assert asked == []
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", planted)
    (tmp_path / "free").mkdir()
    assert looked_at(free, tmp_path / "free", 800)[1] == ["http://127.0.0.1:9/x.png"]
