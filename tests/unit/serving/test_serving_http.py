from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time

import httpx
import pytest
from serving_making import make_predictor, make_rows

from regraft.errors import GateError, MissingExtraError, Problem, UsageError
from regraft.options import to_json
from regraft.serving import serve as serving
from regraft.serving.app import create_app, info_of
from regraft.serving.options import ServeOptions
from regraft.serving.predictor import Predictor
from regraft.serving.serve import BackgroundServer, check_exposure, is_loopback, listen, serve, with_token


class Door:
    """A server in this process over a predictor without an artifact, and a client."""

    def __init__(self, predictor: Predictor, options: ServeOptions, check=lambda: None, loopback_only: bool = True) -> None:
        import uvicorn

        app = create_app(
            predictor, info_of(predictor, {"digest": "abc"}, options), options, check=check, loopback_only=loopback_only
        )
        self.desk = app.app.state.desk
        self.socket = listen(ServeOptions(port=0))
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.socket]))
        self.client = httpx.Client(base_url=serving._url(self.socket), timeout=20, trust_env=False)

    def __enter__(self) -> httpx.Client:
        self.thread.start()
        for _ in range(500):
            try:
                if self.client.get("/health").json()["status"] != "starting":
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.01)
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()


@pytest.fixture
def client(predictor):
    options = ServeOptions(max_rows=50, max_body_bytes=100_000, max_text_chars=1000)
    with Door(predictor, options) as client:
        yield client


def problem(response: httpx.Response) -> dict[str, str]:
    (one,) = response.json()["problems"]
    assert set(one) <= {"what", "where", "got", "expected", "fix"}
    assert one["fix"]
    assert "Traceback" not in response.text
    return one


def test_rows_answer_over_http_as_in_python_bit_for_bit(client, predictor):
    rows = make_rows(50)
    answers = client.post("/predict", json={"rows": rows}).json()["predictions"]
    expected = predictor.predict(rows)
    assert answers == [{"prediction": p.value, "probabilities": dict(p.probabilities)} for p in expected]
    named = client.post("/predict", json={"rows": [{"text": row, "id": 1} for row in rows]}).json()["predictions"]
    assert named == answers


def test_bad_rows_say_why_in_their_places_and_strict_refuses(client):
    body = {"rows": ["w1", {"txet": "w1"}, None, {"text": 3}]}
    response = client.post("/predict", json=body)
    assert response.status_code == 200
    answers = response.json()["predictions"]
    assert answers[0]["prediction"] is not None
    assert "error" not in answers[0]
    assert [a.get("error") for a in answers[1:]] == [
        "the column 'text' is missing (got 'txet', expected 'text')",
        "there is no text",
        "text is expected, got int (3)",
    ]
    assert [a["prediction"] for a in answers[1:]] == [None] * 3
    refused = client.post("/predict", json={**body, "strict": True})
    assert refused.status_code == 422
    assert len(refused.json()["problems"]) == 3


def test_no_rows_is_an_answer(client):
    assert client.post("/predict", json={"rows": []}).json() == {"predictions": []}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"not json", "body.0"),
        (b"", "body"),
        (b"[]", "body"),
        (b"{}", "body.rows"),
        (b'{"rows": "w1"}', "body.rows"),
        (b'{"rows": [], "x": 1}', "body.x"),
    ],
)
def test_what_is_no_request_is_said(client, content, where):
    response = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    one = problem(response)
    assert one["what"] == "the request cannot be read"
    assert one["where"] == where
    assert '{"rows": ["...", ...]}' in one["fix"]


def test_a_body_that_is_not_json_is_said_with_its_place(client):
    one = problem(client.post("/predict", content=b'{"rows": [}', headers={"content-type": "application/json"}))
    assert one["expected"] == "JSON"
    assert one["got"] == "Expecting value at character 10"


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"rows": ' + b"[" * 50_000, b'{"rows": [' + b"9" * 6000 + b"]}"])
def test_a_body_that_no_parser_takes_is_said_in_the_same_words(client, content):
    response = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert problem(response)["what"] == "the request cannot be read"
    assert '{"rows": ["...", ...]}' in problem(response)["fix"]


def test_too_many_rows_and_too_long_texts_are_refused(client):
    response = client.post("/predict", json={"rows": ["w1"] * 51})
    assert response.status_code == 422
    assert problem(response) == {
        "what": "too many rows in one request",
        "where": "rows",
        "got": "51 rows",
        "expected": "at most 50",
        "fix": "send at most 50 rows a request",
    }
    response = client.post("/predict", json={"rows": ["w1", {"text": "w" * 1001}]})
    assert response.status_code == 422
    assert problem(response)["where"] == "row 2"
    assert problem(response)["got"] == "1001 characters"


def test_a_body_that_is_too_large_is_refused_told_or_not(client):
    for body in (b"x" * 100_001, (b"x" * 1000 for _ in range(101))):  # the second is sent in pieces, without a length
        response = client.post("/predict", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 413
        assert problem(response)["expected"] == "at most 100000 bytes"
    assert client.post("/predict", json={"rows": ["w1"]}).status_code == 200


def test_an_artifact_that_holds_no_parts_against_each_other_does_not_retrieve(client):
    response = client.post("/retrieve", json={"queries": ["w1"], "among": ["w2"]})
    assert response.status_code == 404
    assert problem(response) == {
        "what": "this artifact does not bring parts of a row into one space",
        "where": "POST /retrieve",
        "got": "the task 'classification'",
        "fix": "give an artifact that was fitted with --task retrieval; this one answers POST /predict",
    }


def test_paths_and_methods_that_do_not_exist(client):
    assert problem(client.get("/nothing"))["fix"].startswith("use POST /predict")
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405
    assert problem(client.get("/predict"))["where"] == "GET /predict"


def test_info_schema_and_no_permission_for_other_origins(client):
    info = client.get("/info").json()
    assert info["columns"] == ["text"]
    assert info["labels"] == ["eggs", "ham", "spam"]
    assert info["digest"] == "abc"
    assert info["limits"]["max_rows"] == 50
    assert "token" not in json.dumps(info)
    assert client.get("/docs").status_code == 404, "a page that loads scripts from elsewhere"
    schema = client.get("/openapi.json").json()
    assert "PredictRequest" in schema["components"]["schemas"]
    headers = client.options("/predict", headers={"origin": "http://evil.example"}).headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_name_that_somebody_pointed_at_this_machine_is_refused(client):
    response = client.get("/info", headers={"host": "evil.example"})
    assert response.status_code == 421
    assert problem(response)["got"] == "'evil.example'"
    assert client.get("/info", headers={"host": "localhost:80"}).status_code == 200
    assert client.get("/info", headers={"host": "[::1]:80"}).status_code == 200


def test_a_failure_of_ours_is_answered_without_its_trace(predictor, caplog):
    def fail(*_: object, **__: object):
        raise RuntimeError("secret detail")

    with caplog.at_level(logging.CRITICAL + 1), Door(predictor, ServeOptions()) as client:
        predictor.predict = fail
        response = client.post("/predict", json={"rows": ["w1"]})
        assert response.status_code == 500
        assert "secret" not in response.text
        assert problem(response)["what"] == "the server failed on this request"
        assert client.get("/health").status_code == 200


def test_nothing_is_answered_before_the_golden_rows_are(predictor):
    release = threading.Event()
    door = Door(predictor, ServeOptions(), check=release.wait)
    door.thread.start()
    try:
        for _ in range(500):
            try:
                response = door.client.get("/health")
                break
            except httpx.TransportError:
                time.sleep(0.01)
        assert response.status_code == 503
        assert response.json() == {"status": "starting", "problems": []}
        early = door.client.post("/predict", json={"rows": ["w1"]})
        assert early.status_code == 503
        assert early.headers["retry-after"] == "1"
        assert problem(early)["what"] == "the server is not ready (starting)"
        release.set()
        for _ in range(500):
            if door.client.get("/health").status_code == 200:
                break
            time.sleep(0.01)
        assert door.client.post("/predict", json={"rows": ["w1"]}).status_code == 200
    finally:
        release.set()
        door.__exit__()


def test_golden_rows_that_moved_keep_the_server_from_answering(predictor, caplog):
    def check() -> None:
        raise GateError(Problem(what="it moved", fix="fit again"))

    with caplog.at_level(logging.CRITICAL + 1), Door(predictor, ServeOptions(), check=check) as client:
        health = client.get("/health")
        assert health.status_code == 503
        assert health.json() == {"status": "failed", "problems": [{"what": "it moved", "fix": "fit again"}]}
        assert client.post("/predict", json={"rows": ["w1"]}).status_code == 503


def test_a_full_queue_tells_clients_to_come_again_while_health_answers(predictor):
    entered, release = threading.Semaphore(0), threading.Event()
    answer = predictor.predict

    def slow(rows, **how):
        entered.release()
        release.wait(20)
        return answer(rows, **how)

    statuses: list[int] = []
    door = Door(predictor, ServeOptions(max_waiting=2, retry_after_s=7))
    predictor.predict = slow
    with door as client:

        def ask() -> None:
            statuses.append(client.post("/predict", json={"rows": ["w1"]}).status_code)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        assert entered.acquire(timeout=10)
        deadline = time.monotonic() + 10
        while door.desk.state.waiting < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        response = client.post("/predict", json={"rows": ["w1"]})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "7"
        assert problem(response)["what"] == "the server is busy"
        assert client.get("/health").status_code == 200
        release.set()
        for asker in askers:
            asker.join(20)
        assert client.post("/predict", json={"rows": ["w1"]}).status_code == 200
    assert statuses == [200, 200]
    assert door.desk.state.waiting == 0


def test_with_a_token_every_request_but_health_must_carry_it(predictor):
    with Door(predictor, ServeOptions(token="very secret"), loopback_only=False) as client:
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "very secret"},
            {"authorization": "Bearer very secre\xe9"},
        ):
            response = client.post(
                "/predict", json={"rows": ["w1"]}, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
            )
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert problem(response)["what"] == "the request carries no valid token"
        assert client.get("/info").status_code == 401
        assert client.get("/openapi.json").status_code == 401
        good = client.post("/predict", json={"rows": ["w1"]}, headers={"authorization": "Bearer very secret"})
        assert good.status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_other_machines_need_a_token(host, monkeypatch):
    monkeypatch.delenv("REGRAFT_TOKEN", raising=False)
    with pytest.raises(UsageError) as caught:
        check_exposure(with_token(ServeOptions(host=host)))
    assert "serving other machines needs a token" in str(caught.value)
    assert "REGRAFT_TOKEN" in str(caught.value)
    monkeypatch.setenv("REGRAFT_TOKEN", "   ")
    with pytest.raises(UsageError):
        check_exposure(with_token(ServeOptions(host=host)))
    monkeypatch.setenv("REGRAFT_TOKEN", "t0ken")
    check_exposure(with_token(ServeOptions(host=host)))
    assert with_token(ServeOptions()).token == "t0ken"
    assert with_token(ServeOptions(token="mine")).token == "mine"


def test_loopback_is_known():
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "0.0.0.0", "10.0.0.1")] == [
        True
    ] * 5 + [False] * 2


def test_a_taken_port_is_said_with_what_to_do():
    with listen(ServeOptions(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            listen(ServeOptions(port=port))
    assert "the server cannot listen there" in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "--port 0" in str(caught.value)


def test_a_missing_extra_is_named(predictor, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(MissingExtraError) as caught:
        serving._server(predictor, ServeOptions())
    assert "serving over HTTP needs the package 'uvicorn'" in str(caught.value)
    assert "regraft[serve]" in str(caught.value)


def test_the_token_is_no_part_of_what_is_told(predictor):
    options = ServeOptions(token="very secret")
    assert "very secret" not in json.dumps(info_of(predictor, {}, options))
    assert to_json(options)["token"] == "very secret"  # options themselves are not written anywhere by this room


def test_an_artifact_is_served_from_a_thread_and_stops(tiny):
    artifact, in_memory = tiny
    rows = make_rows(40, seed=8)
    with BackgroundServer(Predictor.load(artifact.path, threads=1)) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            answers = client.post("/predict", json={"rows": rows}).json()["predictions"]
            info = client.get("/info").json()
    assert answers == [{"prediction": p.value, "probabilities": dict(p.probabilities)} for p in in_memory.predict(rows)]
    assert info["digest"] == artifact.digest
    assert info["target"] == {"column": "label"}
    assert info["report"]["verdict"] == "better"
    host, port = server.url.removeprefix("http://").split(":")
    with pytest.raises(OSError, match="refused"), socket.create_connection((host, int(port)), timeout=2):
        pass


def test_an_artifact_whose_golden_rows_moved_is_not_served(tiny_copy, caplog):
    predictor = Predictor.load(tiny_copy.path, threads=1)
    with torch_no_grad():
        next(iter(predictor.runtime.net.head.parameters())).add_(1.0)
    with caplog.at_level(logging.CRITICAL + 1), pytest.raises(GateError, match="a golden row is not answered as it was"):
        BackgroundServer(predictor).__enter__()


def torch_no_grad():
    import torch

    return torch.no_grad()


def test_serve_says_where_and_ends_with_ctrl_c(tiny, monkeypatch):
    said: list[str] = []

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BackgroundServer, "wait", interrupt)
    serve(Predictor.load(tiny[0].path), ServeOptions(port=0), say=said.append)
    assert said[0].startswith("serving on http://127.0.0.1:")
    assert said[-1] == "stopped"


def test_a_predictor_without_an_artifact_is_not_served():
    with pytest.raises(GateError, match="no golden rows"):
        BackgroundServer(make_predictor()).__enter__()


def test_a_service_manager_ends_the_server_as_ctrl_c_does(tiny):
    before = signal.getsignal(signal.SIGTERM)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    serve(Predictor.load(tiny[0].path, threads=1), ServeOptions(port=0), say=say)
    assert said[-1] == "stopped"
    assert signal.getsignal(signal.SIGTERM) is before
