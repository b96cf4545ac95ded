"""Answered rows are drawn as they are: nothing overlaps by construction, nothing from data is ever markup, nothing is fetched."""

from __future__ import annotations

import base64
import html.parser
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from regraft.errors import MissingExtraError, OptionsError, UnknownNameError
from regraft.modalities import MODALITIES, pictures, recordings
from regraft.modalities.fusion import Part
from regraft.rendering import RENDERERS
from regraft.rendering.page import page
from regraft.rendering.render import check_out, render
from regraft.rendering.renderer import Renderer, Shown, caption, cut, named, plain, sparks
from regraft.types import Prediction

HOSTILE = '<script>alert("1")</script>$\\frac{1}$ \x1b[31m\u202e\n&amp;[bold]x'
TAGS = set(re.findall(r"\w+", "html head meta title style body main article h1 h2 small img div i span b p table tr th td"))
WAVE = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
RAWS = {
    "text": f"{HOSTILE} {'漢字' * 80} and more " * 4,
    "image": pictures.png(Image.fromarray(np.arange(28 * 28, dtype=np.uint16).reshape(28, 28).astype(np.uint8))),
    "audio": recordings.wav_bytes(WAVE, 8000),
    "series": [[float(i), None if i % 5 == 0 else float(i * i)] for i in range(30)],
    "text-pair": {"question": HOSTILE * 3, "passage": f"{HOSTILE} and what it says about much more than fits a line"},
    "table": {HOSTILE: HOSTILE, "age": 39, "gap": None, **{f"column {i}": i / 7 for i in range(20)}},
}
PARTS = {HOSTILE: "text", "photo": "image", "no photo": "image", "wave": "audio", "line": "series"}
RAWS["fusion"] = {name: RAWS[kind] if name != "no photo" else None for name, kind in PARTS.items()} | {
    "age": 39,
    "city": HOSTILE,
}


def reads(modality: str) -> Any:
    """What a renderer asks of a modality: its name, and the parts of its rows."""
    if modality != "fusion":
        return SimpleNamespace(name=modality, columns=("age", "city") if modality == "table" else ())
    parts = [Part(name, f"part-{place}", (name,), reads(kind)) for place, (name, kind) in enumerate(PARTS.items())]
    return SimpleNamespace(name=modality, parts=(*parts, Part("table", "table", (), reads("table"))))


def renderer_of(modality: str) -> Renderer:
    return RENDERERS.get(modality).of(reads(modality))


def rows_of(modality: str, count: int = 3) -> list[Shown]:
    found = Prediction(value=HOSTILE, probabilities={HOSTILE: 0.7, "b": 0.2, "c": 0.06, "d": 0.04})
    rows = [Shown(row=i + 1, raw=RAWS[modality], prediction=found, truth="b") for i in range(count)]
    return [*rows, Shown(row=count + 1, raw=None, prediction=Prediction(value=None, error=f"no {HOSTILE}"))]


class Parsed(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data):
        self.texts.append(data)


def test_what_is_drawn_is_a_modality_and_no_renderer_is_left_untested():
    assert set(RENDERERS) <= set(MODALITIES)
    assert set(RENDERERS) == set(RAWS)


@pytest.mark.parametrize("modality", sorted(RAWS))
def test_a_page_holds_no_markup_from_data_and_asks_for_nothing(modality: str):
    text = page(renderer_of(modality), rows_of(modality), HOSTILE).decode()
    parsed = Parsed(text)
    assert parsed.tags <= TAGS
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in text
    shown = "".join(parsed.texts)
    assert '<script>alert("1")</script>' in shown, "it is there as text"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("<article>") == 4
    assert text.count('class="wrong"') == 3
    assert "70.0 %" in shown
    assert "no answer: no <script>" in shown


@pytest.mark.parametrize("modality", sorted(RAWS))
def test_a_sheet_is_a_picture_of_known_size_with_ink_in_every_cell(modality: str, tmp_path: Path):
    (path,) = render(reads(modality), rows_of(modality), tmp_path / "sheet.png", "title")
    picture = np.asarray(Image.open(path).convert("L")).astype(int)
    renderer = renderer_of(modality)
    across = min(4, int((11.0 - 0.16) / (renderer.width_in + 0.16)))
    assert picture.shape[1] == pytest.approx(150 * (across * (renderer.width_in + 0.16) - 0.16 + 0.24), abs=2)
    first = picture[: 150 * 2, : int(150 * renderer.width_in)]
    assert (first < 128).sum() > 200
    assert set(tmp_path.iterdir()) == {path}


@pytest.mark.parametrize("modality", sorted(RAWS))
def test_the_terminal_shows_rows_without_escape_sequences_from_data(modality: str):
    file = io.StringIO()
    assert render(reads(modality), rows_of(modality), Console(file=file, width=100, color_system=None), "title") == []
    text = file.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "(is b)" in text
    assert "70 %" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_folder_holds_a_page_and_each_row(tmp_path: Path):
    files = render(reads("image"), rows_of("image", 2), tmp_path / "drawn", "title")
    assert sorted(path.name for path in files) == ["index.html", "row-000001.png", "row-000002.png", "row-000003.png"]
    assert all(path.is_file() for path in files)


def test_a_picture_on_a_page_is_the_picture():
    text = page(renderer_of("image"), rows_of("image", 1), "t").decode()
    (content,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(RAWS["image"]))))


def test_half_blocks_have_the_colours_of_the_pixels():
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[0], pixels[1] = [255, 0, 0], [0, 0, 255]
    text = RENDERERS.get("image")().terminal(pictures.png(Image.fromarray(pixels)), 80)
    style = text.spans[0].style
    assert (tuple(style.color.triplet), tuple(style.bgcolor.triplet)) == ((255, 0, 0), (0, 0, 255))
    assert len(text.plain.splitlines()) == 14


def test_a_tone_is_bright_at_its_frequency():
    from matplotlib.figure import Figure

    figure = Figure()
    RENDERERS.get("audio")().draw(figure, (0, 0, 1, 1), RAWS["audio"])
    image = figure.axes[1].images[0]
    loudest = int(np.asarray(image.get_array()).mean(axis=1).argmax())
    low, high = image.get_extent()[2:]
    assert low + (loudest + 0.5) / image.get_array().shape[0] * (high - low) == pytest.approx(1.0, abs=0.05)
    assert image.get_extent()[1] == pytest.approx(1.0)


def test_a_gap_in_a_series_is_a_gap():
    from matplotlib.figure import Figure

    figure = Figure()
    RENDERERS.get("series")().draw(figure, (0, 0, 1, 1), RAWS["series"])
    first, second = (line.get_ydata() for line in figure.axes[0].lines)
    assert first.tolist() == [float(i) for i in range(30)]
    assert np.isnan(second[::5]).all()
    assert sparks([1, float("nan"), 3], 3) == "▁ █"
    assert sparks([2, 2], 5) == "▅▅"
    assert sparks([], 5) == ""


def test_right_wrong_and_unknown():
    def told(value, truth):
        return caption(Shown(row=1, raw=None, prediction=Prediction(value=value), truth=truth))

    assert (told("a", "a").right, told("a", "b").right, told("a", None).right) == (True, False, None)
    assert told("a", "a").truth == ""
    assert (told(1.5, "1.6").right, told(1.5, "1.6").truth) == (None, "1.6")
    assert told(["b", "a"], named(("a", "b"))).right is True
    quantiles = caption(Shown(row=1, raw=None, prediction=Prediction(value=2.0, quantiles={"0.1": 1.0, "0.9": 3.25})))
    assert quantiles.title == "2 [1, 3.25]"
    assert told("sneaker", "ankle boot").headline(25) == "sneaker (is ankle boot)"
    assert told("a" * 30, "b" * 30).headline(25) == "aaaaaaaa… (is bbbbbbbbb…)"
    assert len(told("a" * 30, "bb").headline(25)) <= 25
    assert cut("abcdef", 4) == "abc…"
    assert plain("a\tb\x00c\u2066d\ud800") == "a b cd"


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.pdf", ["x.pdf", ".png, .html, or a folder"]), ("there", ["a file stands"]), ("folder.png", ["a folder stands"])],
)
def test_a_place_where_nothing_can_be_drawn(tmp_path: Path, name: str, words: list[str]):
    (tmp_path / "there").write_text("x")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OptionsError) as raised:
        check_out(tmp_path / name)
    for word in words:
        assert word in str(raised.value)


def test_without_matplotlib_the_extra_is_named_and_pages_of_texts_still_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for out in ("sheet.png", "folder"):
        with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[plots\]'"):
            render(reads("text"), rows_of("text"), tmp_path / out, "t")
    with pytest.raises(MissingExtraError, match=r"regraft\[plots\]"):
        render(reads("series"), rows_of("series"), tmp_path / "page.html", "t")
    assert not list(tmp_path.iterdir())
    assert render(reads("table"), rows_of("table"), tmp_path / "page.html", "t")


def test_a_modality_that_nobody_draws(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="among the renderers"):
        render(reads("smell"), rows_of("text"), tmp_path / "x.html", "t")


def test_a_modality_made_of_another_is_drawn_as_that_one_and_what_it_cannot_read_as_it_stands(tmp_path: Path):
    shouted = SimpleNamespace(
        name="shouts",
        over="text",
        columns=(),
        problem=lambda raw: "" if isinstance(raw, list) else "no list",
        inner=lambda raws, columns: [" ".join(raw).upper() for raw in raws],
    )
    rows = [Shown(row=i, raw=raw, prediction=Prediction(value="b")) for i, raw in enumerate([["fine", "weather"], 17])]
    (file,) = render(shouted, rows, tmp_path / "x.html", "t")
    text = file.read_text(encoding="utf-8")
    assert "FINE WEATHER" in text
    assert "17" in text
    assert render(shouted, rows, tmp_path / "x.png", "t")[0].stat().st_size > 1000
    console = Console(file=io.StringIO(), width=80)
    render(shouted, rows, console, "t")
    assert "FINE WEATHER" in console.file.getvalue()


def test_parts_of_a_row_lie_below_each_other_and_a_missing_one_is_said():
    from matplotlib.figure import Figure

    renderer, figure = renderer_of("fusion"), Figure()
    heights = [renderer_of(kind).height_in for kind in (*PARTS.values(), "table")]  # of the table two lines
    assert renderer.height_in == pytest.approx(sum(heights) + 0.2 * len(heights))
    renderer.draw(figure, (0.1, 0.2, 0.8, 0.7), RAWS["fusion"])
    boxes = [axes.get_position() for axes in figure.axes]
    assert min(box.y0 for box in boxes) >= 0.2 - 1e-9
    names = {axes.texts[0].get_text(): axes.get_position().y1 for axes in figure.axes if axes.texts}
    tops = [names[name] for name in (plain(HOSTILE)[:39].rstrip() + "…", "photo", "no photo: –", "wave", "line", "table")]
    steps = [(height + 0.2) / renderer.height_in * 0.7 for height in heights]
    np.testing.assert_allclose(tops, 0.9 - np.cumsum([0.0, *steps[:-1]]), atol=1e-6)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "no photo: –" in texts
    told = renderer.html(RAWS["fusion"])
    assert "<small>no photo: –</small>" in told
    assert told.count("<img") == 3  # the picture, and what is drawn of the sound and the series
    assert HOSTILE not in told
