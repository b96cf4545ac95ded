"""Rows of several parts as arrays: what is missing, names, spans, files, and what is said about rows that cannot be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.errors import ArtifactError, DataError, OptionsError
from regraft.modalities.encoded import EncodedRows
from regraft.modalities.fusion import Fusion, Part, part_keys
from regraft.modalities.fusion_survey import FusionSurvey, asked
from regraft.modalities.image import Image, ImageOptions
from regraft.modalities.pictures import png
from regraft.modalities.table import Table, TableOptions
from regraft.modalities.text import Text, TextOptions

ROWS = [
    {"review": "good day", "photo": "A", "age": 31, "town": "Rome"},
    {"review": None, "photo": "B", "age": 47, "town": None},
    {"review": "good good new day", "photo": None, "age": None, "town": None},
    {"review": "  ", "photo": None, "age": 18, "town": "Oslo"},
]


def picture(shade):
    from PIL import Image as Pillow

    return png(Pillow.new("RGB", (4, 4), (shade, shade, shade)))


@pytest.fixture(scope="module")
def rows():
    photos = {"A": picture(10), "B": picture(200), None: None}
    return [{**row, "photo": photos[row["photo"]]} for row in ROWS]


@pytest.fixture(scope="module")
def fusion(rows):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "day": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    image = Image({"size": {"height": 2, "width": 2}}, ImageOptions())
    table = Table.learn(
        TableOptions(scale="none", min_count=1), lambda: [[{k: row[k] for k in ("age", "town")} for row in rows]]
    )
    return Fusion(
        [
            Part("review", "review", ("review",), Text(words, TextOptions(max_length=3))),
            Part("photo", "photo", ("photo",), image),
            Part("table", "table", ("age", "town"), table),
        ]
    )


def test_parts_are_encoded_as_each_would_be_alone(fusion, rows):
    encoded = fusion.encode(rows)
    text, image, table = (part.modality for part in fusion.parts)
    assert [[part is not None for part in row.parts] for row in encoded] == [
        [True, True, True],
        [False, True, True],
        [True, False, False],
        [False, False, True],
    ]
    alone = [text.encode(["good day"])[0], image.encode([rows[0]["photo"]])[0], table.encode([{"age": 31, "town": "Rome"}])[0]]
    for mine, theirs in zip(encoded[0].parts, alone, strict=True):
        assert all(np.array_equal(mine.inputs[name], theirs.inputs[name]) for name in theirs.inputs)
    assert encoded[0].spans_T2.tolist() == [[0, 4], [5, 8], [0, 1], [0, 2]]
    assert [row.length for row in encoded] == [4, 2, 3, 1]
    assert encoded[2].dropped == 1, "four words, three of which are read"
    assert fusion.columns == ("review", "photo", "age", "town")
    assert fusion.longest == 5


def test_batches_hold_zeros_and_no_mask_where_a_part_is_missing(fusion, rows):
    inputs, mask = fusion.collate(fusion.encode(rows))
    assert set(inputs) == set(fusion.padding)
    assert inputs["review__input_ids"].tolist() == [[1, 2, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert inputs["review__attention_mask"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert inputs["photo__attention_mask"].tolist() == [[1], [1], [0], [0]]
    assert inputs["photo__pixel_values"].shape == (4, 3, 2, 2)
    assert not inputs["photo__pixel_values"][2:].any()
    assert inputs["table__attention_mask"].tolist() == [[1], [1], [0], [1]]
    assert mask.sum(axis=1).tolist() == [4, 2, 3, 1]
    assert all(inputs[name].dtype == np.int64 for name in inputs if name.endswith("attention_mask"))


def test_a_batch_without_a_part_still_has_its_arrays(fusion, rows):
    inputs, _ = fusion.collate(fusion.encode(rows[3:]))
    assert inputs["photo__pixel_values"].shape == (1, 3, 2, 2)
    assert inputs["review__input_ids"].shape == (1, 1)
    assert inputs["review__input_ids"].dtype == np.int64
    assert not inputs["review__attention_mask"].any()


def test_rows_of_a_split_give_the_batches_of_their_rows(fusion, rows):
    held = fusion.rows(lambda: [rows[:3], rows[3:]], lambda _: None)
    assert len(held) == 4
    assert held.lengths.tolist() == [4, 2, 3, 1]
    assert (held.dropped, held.truncated_rows) == (1, 1)
    for order in ([0, 1, 2, 3], [3, 1], [2], [0]):
        batch = held.batch(np.array(order), np.arange(4) * 10)
        inputs, mask = fusion.collate(fusion.encode([rows[i] for i in order]))
        assert batch.targets.tolist() == [10 * i for i in order]
        assert np.array_equal(batch.mask_BT, mask)
        for name, array in inputs.items():
            assert batch.inputs[name].dtype == array.dtype
            assert np.array_equal(batch.inputs[name], array), name


def test_a_part_that_no_row_of_a_split_has_is_still_of_its_shape(fusion, rows):
    held = fusion.rows(lambda: [rows[2:]], lambda _: None)
    batch = held.batch(np.arange(2))
    assert batch.inputs["photo__pixel_values"].shape == (2, 3, 2, 2)
    assert len(fusion.rows(list, lambda _: None)) == 0


def test_parts_are_kept_as_a_run_over_that_part_alone_keeps_them(fusion, rows):
    held = fusion.rows(lambda: [rows], lambda _: None)
    alone = EncodedRows(fusion.parts[0].modality, [["good day", "good good new day"]])
    assert np.array_equal(held.parts[0].digests, alone.digests)


def test_one_part_can_be_taken_away_everywhere(fusion, rows):
    lacking = fusion.without("review")
    assert [row.parts[0] for row in lacking.encode(rows)] == [None] * 4
    assert fusion.encode(rows[:1])[0].parts[0] is not None, "the other one is as it was"
    assert lacking.problem(rows[2]) == "", "a row may have had nothing else"
    assert lacking.encode(rows[2:3])[0].length == 0
    assert lacking.part_names == ("review", "photo", "table")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("good", "a row of the columns 'review', 'photo', 'age', 'town' is expected, got str"),
        ({"review": None}, "there is nothing in the columns 'review', 'photo', 'age', 'town'"),
        ({"review": 3}, "column 'review': text is expected, got int (3)"),
        ({"age": "x", "town": "Rome"}, "the column 'age' holds 'x', where a number is expected"),
        ({"review": "good", "photo": b"no picture"}, "column 'photo': "),
    ],
)
def test_what_is_wrong_is_said_with_its_column(fusion, row, said):
    assert fusion.problem(row).startswith(said)


def test_files_stand_in_folders_of_their_own(fusion, rows, tmp_path):
    fusion.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo", "review", "table"]
    again = Fusion.load(tmp_path, json.loads(json.dumps(fusion.spec())))
    assert again.columns == fusion.columns
    one, two = (made.collate(made.encode(rows)) for made in (fusion, again))
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])
    bad = json.loads(json.dumps(fusion.spec()))
    bad["parts"][0]["key"] = "../review"
    with pytest.raises(ArtifactError, match="a part has a name that no folder of an artifact has"):
        Fusion.load(tmp_path, bad)


def test_rows_as_json_are_read_as_the_same_rows(fusion, rows):
    for row in rows:
        told = json.loads(json.dumps(fusion.as_json(row)))
        one, two = fusion.encode([row])[0].arrays(), fusion.encode([told])[0].arrays()
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert fusion.as_json(rows[1])["review"] is None
    assert len(fusion.shortened({**rows[0], "review": "long " * 5000}, 9000)["review"]) < 4000


def test_files_that_rows_name_are_read_and_what_is_wrong_is_said(fusion, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(10))
    found, wrong = fusion.brought([{"photo": "a.png"}, {"photo": None}, {"photo": "b.png"}], tmp_path)
    assert found[0]["photo"] == picture(10)
    assert found[1] == {"photo": None}
    assert list(wrong) == [2]
    assert wrong[2].startswith("column 'photo': ")


def test_keys_are_plain_and_all_different():
    assert part_keys(["a b", "a_b", "A.B", "日本", "2nd", "values"]) == ["a_b", "a_b_2", "A_B_3", "part", "part_2nd", "values"]


PARTS = {"review": {"name": "text", "columns": ["review"]}, "table": {"name": "table", "columns": []}}


def test_a_survey_finds_the_columns_that_are_left():
    survey = FusionSurvey(asked(PARTS))
    survey.add({"review": ["good", None, "bad day"], "age": ["1", "2", ""], "town": ["x", "x", "y"]})
    found = survey.finish(False)
    assert found.columns == ("review", "age", "town")
    assert found.settled["parts"]["table"]["columns"] == ["age", "town"]
    assert found.settled["parts"]["table"]["kinds"] == {"age": "number", "town": "category"}
    assert found.settled["parts"]["review"] == {"name": "text", "columns": ["review"]}
    assert found.notes[0] == "'review' is read as text, missing in 1 of 3 rows"
    assert found.sight.unreadable({"review": "good", "age": "x", "town": None}).startswith("the column 'age' holds 'x'")
    assert found.sight.unreadable({"review": 3, "age": "1", "town": None}) == "column 'review': text is expected, got int (3)"
    assert found.sight.unreadable({"review": None, "age": "", "town": None}).startswith("there is nothing in the columns")


def test_a_part_that_no_row_has_is_an_error_with_the_flag_to_leave_out():
    survey = FusionSurvey(asked(PARTS))
    survey.add({"review": [None, "  "], "age": ["1", "2"]})
    with pytest.raises(DataError) as caught:
        survey.finish(False)
    (problem,) = caught.value.problems
    assert problem.what == "the part 'review' is missing in every row"
    assert problem.where == "'review'"
    assert problem.got == "nothing in 2 rows"
    assert problem.fix == "leave it out of --text, or give training rows that have it"


def test_a_part_that_nothing_reads_is_an_error():
    with pytest.raises(OptionsError, match="nothing says what reads the part 'review'"):
        asked({"review": {"max_length": 3}})
