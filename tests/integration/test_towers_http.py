"""Two towers over HTTP: what Python finds, bit for bit; what cannot be found says what to do."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from test_towers_line import command, flags_of_things, rows_of

import regraft
from regraft.cli.app import _run
from regraft.serving.options import ServeOptions
from regraft.serving.predictor import Predictor
from regraft.serving.serve import BackgroundServer


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A predictor of two towers, and rows of its data with the pictures themselves, in base64."""
    folder = tmp_path_factory.mktemp("served")
    data = flags_of_things(folder)
    assert _run(command(data, folder / "m", epochs=2)) == 0
    rows = [
        {**row, "picture": base64.b64encode((folder / row["picture"]).read_bytes()).decode()} for row in rows_of(data, "left")
    ]
    return Predictor.load(folder / "m", threads=1), rows, folder


@pytest.fixture(scope="module")
def client(towers):
    options = ServeOptions(port=0, max_rows=100, max_matches=400, max_body_bytes=200_000)
    with (
        BackgroundServer(towers[0], options) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        yield client


def in_json(found: list) -> dict:
    """Return what `regraft.retrieve` found as HTTP says it."""
    said = []
    for one in found:
        matches = [{**vars(match), "about": dict(match.about)} for match in one.matches]
        said.append({"row": one.row, "matches": matches, **({"error": one.error} if one.error else {})})
    return {"found": said}


def parts(rows: list[dict], name: str) -> list[dict]:
    return [{name: row[name], "thing": row["thing"]} for row in rows]


def test_http_finds_what_python_finds_both_ways(client, towers):
    predictor, rows, _ = towers
    names, pictures = parts(rows[:30], "name"), parts(rows[:100], "picture")
    for queries, among in ((names, pictures), (pictures[:30], names), ([row["name"] for row in names], pictures)):
        answer = client.post("/retrieve", json={"queries": queries, "among": among})
        assert answer.status_code == 200
        assert answer.json() == in_json(regraft.retrieve(predictor, queries, among=among))
        assert all(len(one["matches"]) == 10 for one in answer.json()["found"])
    asked = {"queries": rows[:5], "among": rows[:70], "by": "picture", "top": 80}
    answer = client.post("/retrieve", json=asked).json()
    assert answer == in_json(regraft.retrieve(predictor, rows[:5], among=rows[:70], by="picture", top=80))
    assert [len(one["matches"]) for one in answer["found"]] == [70] * 5


def test_a_row_that_cannot_be_read_says_so_in_its_place_and_strict_refuses(client, towers):
    _, rows, _ = towers
    body = {"queries": [{"name": rows[0]["name"]}, {"name": None}, {"name": {"a": 1}}], "among": parts(rows[:5], "picture")}
    found = client.post("/retrieve", json=body).json()["found"]
    assert [len(one["matches"]) for one in found] == [5, 0, 0]
    assert "error" not in found[0]
    assert found[1]["error"] == "there is nothing in the columns 'name', 'picture'"
    assert found[2]["error"].startswith("nested value")
    refused = client.post("/retrieve", json={**body, "strict": True})
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["what"] == "2 rows that ask cannot be read"


def test_paths_and_addresses_are_not_opened_for_those_who_ask_over_http(client, towers):
    _, rows, folder = towers
    for place in (str(folder / "pictures" / "0.png"), "pictures/0.png", "file:///etc/passwd", "http://example.org/a.png"):
        body = {"queries": [{"picture": place}], "among": parts(rows[:3], "name")}
        (one,) = client.post("/retrieve", json=body).json()["found"]
        assert one["matches"] == []
        assert "a path or an address is not opened here" in one["error"]
        among = client.post("/retrieve", json={"queries": parts(rows[:3], "name"), "among": [{"picture": place}]})
        assert among.status_code == 422
        assert "a path or an address is not opened here" in among.json()["problems"][0]["where"]
    for way in ({"queries": str(folder / "things.csv"), "among": rows[:1]}, {"queries": rows[:1], "among": "emoji"}):
        assert client.post("/retrieve", json=way).status_code == 422


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "body.queries"),
        ({"queries": ["x"]}, "body.among"),
        ({"queries": ["x"], "among": ["y"], "top": 0}, "greater than or equal to 1"),
        ({"queries": ["x"], "among": ["y"], "bottom": 1}, "body.bottom"),
        ({"queries": [], "among": [{"picture": "x"}]}, "there are no rows"),
        ({"queries": ["x"], "among": []}, "there are no rows"),
        ({"queries": [{"title": "x"}], "among": [{"picture": "x"}]}, "the columns that are read are not there"),
        ({"queries": [{"name": "x"}, "y"], "among": [{"picture": "x"}]}, "every row of a list must be a dict"),
        ({"queries": [[1, 2]], "among": [[3]]}, "it is not clear of which part these values are"),
        ({"queries": ["x"], "among": [{"picture": "x"}], "by": "names"}, "did you mean 'name'?"),
        ({"queries": ["x"] * 101, "among": ["y"] * 102}, "'among', 'got': '102 rows'"),
        ({"queries": ["x"] * 50, "among": ["y"] * 100}, "50 rows that ask, 10 matches each"),
        ({"queries": [{"name": "x", "picture": "x"}], "among": [{"name": "x", "picture": "x"}]}, "by name or by picture"),
    ],
)
def test_what_cannot_be_found_is_said(client, given, told):
    answer = client.post("/retrieve", json=given)
    assert answer.status_code == 422
    problems = answer.json()["problems"]
    assert all(set(one) <= {"what", "where", "got", "expected", "fix"} and one["fix"] for one in problems)
    assert told in str(problems)


def test_a_body_that_is_none_is_said_with_the_shape_of_one(client):
    for content in (b"not json", b'{"queries": ' + b"[" * 50_000):
        answer = client.post("/retrieve", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}
        assert '{"queries": ["...", ...], "among": ["...", ...]}' in answer.json()["problems"][0]["fix"]
    assert client.post("/retrieve", content=b"x" * 200_001).status_code == 413
    assert client.get("/retrieve").status_code == 405


def test_numbers_that_json_has_no_word_for_are_left_out_of_what_is_told(client, towers):
    _, rows, _ = towers
    among = [{"picture": rows[0]["picture"], "price": float("nan"), "size": 3.5}]
    content = json.dumps({"queries": ["leftred"], "among": among}).encode()
    answer = client.post("/retrieve", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert sorted(answer.json()["found"][0]["matches"][0]["about"]) == ["picture", "size"]


def test_what_is_served_says_how_to_ask(client):
    schema = client.get("/openapi.json").json()
    assert sorted(schema["components"]["schemas"]["RetrieveRequest"]["required"]) == ["among", "queries"]
    assert client.get("/info").json()["limits"]["max_matches"] == 400
    assert "POST /retrieve" in client.get("/nothing").json()["problems"][0]["fix"]
