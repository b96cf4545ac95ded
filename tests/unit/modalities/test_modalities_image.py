"""Pictures as pixels: equal to the hub's image processors on real photographs, safe with whatever bytes come."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import transformers
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.mobilenet_v1.image_processing_pil_mobilenet_v1 import MobileNetV1ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from regraft.errors import BaseError
from regraft.modalities import pictures
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.image import PIXELS, PROCESSOR_FILE, Image, ImageOptions, read_processor
from regraft.modalities.modality import padded

FOLDER = Path(skimage.__file__).parent / "data"
PHOTOGRAPHS = sorted(path for path in FOLDER.iterdir() if path.suffix in {".png", ".jpg", ".jpeg", ".gif", ".tif"})
PROCESSORS = {
    "vit": (ViTImageProcessorPil, {}),
    "vit-96": (ViTImageProcessorPil, {"size": {"height": 96, "width": 64}, "image_mean": [0.1, 0.2, 0.3]}),
    "convnext-crop": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "convnext-whole": (ConvNextImageProcessorPil, {"size": {"shortest_edge": 384}}),
    "clip": (CLIPImageProcessorPil, {}),
    "efficientnet": (EfficientNetImageProcessorPil, {"size": {"height": 128, "width": 128}, "rescale_offset": True}),
    "dinov2": (BitImageProcessorPil, {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
    "too-small": (BitImageProcessorPil, {"size": {"shortest_edge": 91}, "crop_size": {"height": 224, "width": 195}}),
    "deit": (DeiTImageProcessorPil, {}),
    "mobilenet": (MobileNetV1ImageProcessorPil, {}),
    "siglip": (SiglipImageProcessorPil, {}),
    "beit": (BeitImageProcessorPil, {"size": {"height": 64, "width": 64}, "do_center_crop": False}),
    "unscaled": (ViTImageProcessorPil, {"do_rescale": False, "do_normalize": False}),
}


def rgb(path: Path) -> Pillow.Image:
    return Pillow.open(io.BytesIO(path.read_bytes())).convert("RGB")


def usable(path: Path) -> bool:
    try:
        picture = Pillow.open(io.BytesIO(path.read_bytes()))
        return picture.mode in {"RGB", "L"} and "transparency" not in picture.info
    except Pillow.UnidentifiedImageError:  # a file that the package would fetch
        return False


def bytes_of(picture: Pillow.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **more)
    return file.getvalue()


@pytest.mark.parametrize("name", PROCESSORS)
def test_equal_to_the_hubs_processor_on_photographs(name, tmp_path):
    kind, values = PROCESSORS[name]
    theirs = kind(**values)
    theirs.save_pretrained(tmp_path)
    ours = Image(read_processor(tmp_path), ImageOptions())
    some = [path for path in PHOTOGRAPHS if usable(path)]
    assert len(some) >= 10
    for path in some[:: 1 if name == "vit" else 5]:
        expected = np.asarray(theirs(rgb(path), return_tensors="np")["pixel_values"])
        found, mask = ours.collate(ours.encode([path.read_bytes()]))
        np.testing.assert_allclose(found["pixel_values"], expected, atol=1e-6, err_msg=path.name)
        assert mask.tolist() == [[True]]


def test_the_saved_folder_is_an_ordinary_one(tmp_path):
    image = Image({"image_processor_type": "ViTImageProcessor"}, ImageOptions(size=40, resize="crop"))
    image.save(tmp_path)
    theirs = ViTImageProcessorPil.from_pretrained(tmp_path)
    path = FOLDER / "coffee.png"
    found = image.collate(image.encode([path.read_bytes()]))[0]["pixel_values"]
    np.testing.assert_allclose(found, np.asarray(theirs(rgb(path), return_tensors="np")["pixel_values"]), atol=1e-6)
    assert found.shape == (1, 3, 40, 40)
    assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path)).__name__.startswith("ViTImageProcessor")
    again = Image.load(tmp_path, json.loads(json.dumps(image.spec())))
    assert np.array_equal(again.collate(again.encode([path.read_bytes()]))[0]["pixel_values"], found)


def test_rows_are_bytes_until_they_are_a_batch():
    image = Image({}, ImageOptions(size=8))
    (row,) = image.encode([np.full((4, 4, 3), 255, np.uint8)])
    assert row.inputs["pixel_values"].dtype == np.uint8
    assert row.inputs["pixel_values"].shape == (1, 8, 8, 3)
    inputs, _ = padded(dict(row.inputs), np.array([0, 0]), np.array([1, 1]), image.padding)
    assert inputs["pixel_values"].dtype == np.uint8
    assert image.ready(inputs)["pixel_values"].shape == (2, 3, 8, 8)
    assert image.ready(inputs)["pixel_values"].dtype == np.float32


def test_a_pixels_channels_lie_side_by_side_for_the_network():
    image = Image({}, ImageOptions(size=8))
    values = image.collate(image.encode([np.zeros((8, 8, 3), np.uint8)] * 2))[0]["pixel_values"]
    assert torch.from_numpy(values).is_contiguous(memory_format=torch.channels_last)


def test_training_pictures_are_moved_and_mirrored_by_their_own_numbers():
    image = Image({"size": {"height": 4, "width": 4}}, ImageOptions(shift=1, flip=True), channels=1)
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4)
    inputs, _ = padded(dict(image.encode([picture])[0].inputs), np.zeros(4, int), np.ones(4, int), image.padding)
    draws_BK = np.array([[0.5, 0.5, 0.9], [0.99, 0.0, 0.9], [0.0, 0.99, 0.9], [0.5, 0.99, 0.1]])
    as_is, down_left, up_right, right_mirrored = image.varied(inputs, draws_BK)["pixel_values"][:, 0, ..., 0]
    padded_picture = np.pad(picture, 1, mode="edge")
    assert np.array_equal(as_is, picture)
    assert np.array_equal(down_left, padded_picture[0:4, 2:6])
    assert np.array_equal(up_right, padded_picture[2:6, 0:4])
    assert np.array_equal(right_mirrored, padded_picture[1:5, 0:4][:, ::-1])


def test_rows_vary_in_training_alone_and_alike_in_every_batch():
    image = Image({"size": {"height": 8, "width": 8}}, ImageOptions(shift=2), channels=1)
    pictures_NHW = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    rows = EncodedRows(image, [list(pictures_NHW)])
    drawn = rows.drawn(np.random.default_rng(1))
    plain, varied = (part.batch(np.arange(6)).inputs["pixel_values"] for part in (rows, drawn))
    assert not np.array_equal(plain, varied)
    assert np.array_equal(drawn.batch(np.array([4, 2])).inputs["pixel_values"], varied[[4, 2]])
    assert not np.array_equal(rows.drawn(np.random.default_rng(2)).batch(np.arange(6)).inputs["pixel_values"], varied)
    assert EncodedRows(Image({}, ImageOptions(size=8)), [list(pictures_NHW)]).drawn(np.random.default_rng(1))._draws_NK is None


def colours(raw, channels=3):
    return np.asarray(pictures.pixels(raw, channels))


def test_kinds_of_pixels():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(colours(grey, 1), grey)
    assert np.array_equal(colours(bytes_of(Pillow.fromarray(grey)))[..., 2], grey)
    deep = (grey.astype(np.uint16) * 257).astype(np.uint16)
    assert np.array_equal(colours(deep, 1), grey)
    assert np.array_equal(colours(bytes_of(Pillow.fromarray(deep)), 1), grey)
    assert colours(grey > 100, 1).max() == 255
    clear = np.zeros((4, 4, 4), np.uint8)
    assert (colours(clear) == 255).all(), "transparent is white"
    assert (colours(bytes_of(Pillow.fromarray(clear))) == 255).all()
    half = np.full((2, 2, 4), [0, 0, 0, 128], np.uint8)
    assert np.abs(colours(half).astype(int) - 127).max() <= 1
    palette = Pillow.fromarray(np.full((3, 3, 3), [200, 10, 10], np.uint8)).convert("P")
    assert np.abs(colours(bytes_of(palette, "GIF"))[0, 0].astype(int) - [200, 10, 10]).max() < 40
    assert colours(palette).shape == (3, 3, 3)
    cmyk = Pillow.fromarray(np.full((3, 3, 3), 90, np.uint8)).convert("CMYK")
    assert np.abs(colours(bytes_of(cmyk, "TIFF")).astype(int) - 90).max() < 3


def by_exif(_kind: str) -> dict[str, object]:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def by_xmp(kind: str) -> dict[str, object]:
    packet = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    if kind != "PNG":
        return {"xmp": packet.encode()}
    notes = PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", packet)
    return {"pnginfo": notes}


def by_profile(_kind: str) -> dict[str, object]:
    content = by_exif("")["exif"].tobytes().hex()
    notes = PngInfo()
    notes.add_text("Raw profile type exif", f"\nexif\n{len(content) // 2:8}\n{content}\n", zip=True)
    return {"pnginfo": notes}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [*((kind, by_exif) for kind in ("PNG", "JPEG", "WEBP", "TIFF")), ("PNG", by_xmp), ("JPEG", by_xmp), ("PNG", by_profile)],
)
def test_a_turned_photograph_stands_upright(mode, kind, said):
    wide = Pillow.fromarray(np.concatenate([np.zeros((4, 8, 3)), np.full((4, 8, 3), 255)]).astype(np.uint8)).convert(mode)
    turned = colours(bytes_of(wide, kind, **said(kind)))
    assert turned.shape == (8, 8, 3)
    assert turned[:, 0].mean() > turned[:, -1].mean() + 200
    assert np.array_equal(
        Image({}, ImageOptions(size=8)).encode([bytes_of(wide, kind, **said(kind))])[0].inputs[PIXELS][0], turned
    )


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_grey_picture_in_colours_has_the_same_in_each(kind, resize):
    """As if it had been in colours before it was scaled, which is what the hub's processors do."""
    camera = Pillow.open(FOLDER / "camera.png")
    for size in ((512, 512), (100, 31), (7, 60), (32, 32)):
        raw = bytes_of(camera.resize(size), kind)
        image = Image({}, ImageOptions(size=32, resize=resize))
        expected = np.asarray(image.steps.shaped(Pillow.open(io.BytesIO(raw)).convert("RGB")))
        assert np.array_equal(image.encode([raw])[0].inputs[PIXELS][0], expected)


def test_every_way_to_give_a_picture_gives_the_same():
    raw = (FOLDER / "chelsea.png").read_bytes()
    image = Image({}, ImageOptions(size=16))
    text = base64.b64encode(raw).decode()
    ways = [raw, {"bytes": raw, "path": None}, text, f"data:image/png;base64,{text}", FOLDER / "chelsea.png"]
    ways += [Pillow.open(io.BytesIO(raw)), np.asarray(Pillow.open(io.BytesIO(raw))), image.as_json(raw)]
    assert [image.problem(way) for way in ways] == [""] * len(ways)
    rows = [row.inputs["pixel_values"] for row in image.encode(ways)]
    assert all(np.array_equal(row, rows[0]) for row in rows)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "there is no picture"),
        (7, "a picture is expected, got int"),
        (b"", "not a picture of a known format"),
        (b"%PDF-1.4 hello", "not a picture of a known format"),
        ((FOLDER / "coffee.png").read_bytes()[:5000], "damaged or cut off"),
        ("cat.png", "a path or an address is not opened here"),
        ("https://example.org/cat", "a path or an address is not opened here"),
        ("/etc/passwd", "not a picture in base64"),
        ("hello!", "not a picture in base64"),
        (np.zeros((4, 4, 2), np.uint8), "got uint8 [4, 4, 2]"),
        (np.zeros((4, 4), np.float32), "got float32 [4, 4]"),
        (b"\x93NUMPY\x01\x00", "array of the picture is damaged"),
        (np.zeros((0, 4), np.uint8), "got uint8 [0, 4]"),
    ],
)
def test_what_is_no_picture_says_so(raw, says):
    image = Image({}, ImageOptions())
    assert says in image.problem(raw)
    assert image.attempt([raw]) == [image.problem(raw)]


def test_a_picture_is_decoded_once_for_an_answer(monkeypatch):
    decoded = []
    decode = pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda picture: decoded.append(picture.size) or decode(picture))
    floats = bytes_of(Pillow.new("F", (4, 4)), "TIFF")
    good, bad = Image({}, ImageOptions(size=8)).attempt([bytes_of(rgb(FOLDER / "coffee.png").resize((12, 8))), floats])
    assert decoded == [(12, 8), (4, 4)]
    assert good.inputs["pixel_values"].shape == (1, 8, 8, 3)
    assert bad == pictures.unreadable(floats) == "the picture holds floating-point numbers; 8 or 16 bits a channel are expected"


def test_a_picture_that_is_cut_off_is_found_in_every_format():
    picture = rgb(FOLDER / "coffee.png").resize((120, 80))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        content = bytes_of(picture, kind)
        assert not pictures.unreadable(content), kind
        assert pictures.unreadable(content[: len(content) // 2]), kind


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    bomb = bytes_of(Pillow.new("1", (12_000, 12_000)))
    assert len(bomb) < 100_000
    assert "too many pixels" in pictures.unreadable(bomb)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10)
    assert "too many pixels: 4 x 4, at most 10" in pictures.unreadable(bytes_of(Pillow.new("RGB", (4, 4))))


def test_paths_in_data_stay_in_their_folder(tmp_path):
    inside = tmp_path / "data" / "a.png"
    inside.parent.mkdir()
    inside.write_bytes(bytes_of(Pillow.new("L", (4, 4))))
    (tmp_path / "b.png").write_bytes(inside.read_bytes())
    (inside.parent / "link.png").symlink_to(tmp_path / "b.png")
    assert Image.located("a.png", inside.parent) == str(inside)
    assert Image.opened(Image.located({"bytes": None, "path": "a.png"}, inside.parent)) == inside.read_bytes()
    assert Image.opened(Image.located(str(tmp_path / "b.png"), inside.parent)) == inside.read_bytes()
    for path in ("../b.png", "link.png"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            Image.located(path, inside.parent)
    with pytest.raises(ValueError, match=r"there is no file 'c\.png'"):
        Image.located("c.png", inside.parent)


def test_a_large_picture_is_made_smaller_for_the_golden_rows():
    image = Image({}, ImageOptions(size=16))
    raw = (FOLDER / "coffee.png").read_bytes()
    text = image.shortened(raw, 10_000)
    assert len(text) < 14_000
    assert image.problem(text) == ""
    small = bytes_of(Pillow.new("L", (9, 9)))
    assert np.array_equal(colours(image.shortened(small, 10_000)), colours(small))


def test_what_a_column_of_pictures_looks_like():
    assert Image.recognises(["a/1.png", "a/2.JPG"])
    assert Image.recognises([{"bytes": b"", "path": "x"}])
    assert not Image.recognises(["good", "bad"])
    assert not Image.recognises(["page.html", "1.txt"])
    assert not Image.recognises([b"123"])
    assert not Image.recognises([])


def test_a_processor_that_gives_pictures_of_different_sizes_is_refused(tmp_path):
    for processor in ({"size": {"shortest_edge": 64}}, {"size": {"longest_edge": 64}}, {"do_resize": False}):
        (tmp_path / PROCESSOR_FILE).write_text(json.dumps(processor))
        with pytest.raises(BaseError, match="how pictures are prepared is not known here"):
            Image(read_processor(tmp_path), ImageOptions())
    with pytest.raises(BaseError, match="does not say how pictures are prepared"):
        read_processor(tmp_path / "nowhere")


@pytest.mark.parametrize("mean", [[0.5, 0.5, 0.5], [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("kinds", [["L", "L"], ["L", "RGB", "L"], ["RGB", "RGB"], ["L"]])
def test_grey_pictures_stay_narrow_and_become_the_same_numbers(mean, kinds):
    rng = np.random.default_rng(0)
    shapes = {"L": (5, 6), "RGB": (5, 6, 3)}
    raws = [pictures.png(pictures.open_picture(rng.integers(0, 256, shapes[kind], dtype=np.uint8))) for kind in kinds]
    image = Image({"size": {"height": 5, "width": 6}, "image_mean": mean, "image_std": [0.2, 0.3, 0.4]}, ImageOptions())
    found, mask_BT = image.collate(image.attempt(raws))
    expected, expected_BT = image.collate(image.encode(raws))
    by_hand = [np.asarray(pictures.open_picture(raw).convert("RGB"), np.float64) / 255 for raw in raws]
    by_hand = (np.stack(by_hand) - mean) / [0.2, 0.3, 0.4]
    assert found["pixel_values"].dtype == np.float32
    assert np.array_equal(found["pixel_values"], expected["pixel_values"])
    assert np.array_equal(mask_BT, expected_BT)
    np.testing.assert_allclose(found["pixel_values"], by_hand.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert {row.inputs["pixel_values"].shape[-1] for row in image.attempt(raws)} == {1 if kind == "L" else 3 for kind in kinds}
