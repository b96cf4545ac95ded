"""The HTTP application: POST /predict, POST /retrieve, GET /health, GET /info, and /openapi.json for programs.

Rows are answered by one worker thread, off the event loop, so that /health answers while rows are computed. The queue before it
is bounded: who finds it full is told to come again (503, Retry-After). Errors are JSON with what, where, got, expected and fix.
"""

# Handlers' annotations are read by FastAPI where they are written, so they must be objects, not strings.

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from regraft.errors import DataError, Problem, RegraftError, UsageError
from regraft.serving.guard import App, Guard
from regraft.serving.options import ServeOptions
from regraft.serving.predictor import Predictor
from regraft.serving.search import Found, Match, Question, parts_of, search
from regraft.version import __version__

T = TypeVar("T")
log = logging.getLogger("regraft.serving")
_NO_BODY = 400
_BESIDE = ("coverage", "min_confidence", "precision")
_SHAPES = {"/predict": '{"rows": ["...", ...]}', "/retrieve": '{"queries": ["...", ...], "among": ["...", ...]}'}


class PredictRequest(BaseModel):
    """Rows to answer."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Any] = Field(description="Raw values, or objects from column name to value; other columns are ignored.")
    strict: bool = Field(default=False, description="Refuse the request if a row cannot be answered (422).")
    coverage: float | None = Field(
        default=None, gt=0, lt=1, description="Give each answer a set or an interval that holds the truth with this chance."
    )
    min_confidence: float | None = Field(
        default=None, ge=0, le=1, description="Mark answers of a lower probability as abstained."
    )
    precision: float | None = Field(
        default=None, gt=0, lt=1, description="Mark answers as abstained so that of the others this share is right."
    )


class Answer(BaseModel):
    """One answer, or why there is none."""

    prediction: Any = Field(
        default=None,
        description="The answer; for classification the label; of several targets an object from target to answer.",
    )
    probabilities: dict[str, float | dict[str, float]] | None = Field(
        default=None, description="Label -> probability; of several targets target -> label -> probability."
    )
    quantiles: dict[str, float | dict[str, float]] | None = Field(
        default=None, description="Level -> number, where a task gives quantiles; of several targets target -> level -> number."
    )
    set: Any = Field(
        default=None,
        description="Labels one of which is true with the chance asked for as coverage; of several targets target -> labels.",
    )
    interval: Any = Field(
        default=None, description="Low and high end that the true number is between with that chance; target -> ends."
    )
    abstained: Any = Field(
        default=None, description="Whether the answer is less sure than asked for, so that it should not be acted upon."
    )
    error: str | None = Field(default=None, description="Why there is no answer.")


class PredictResponse(BaseModel):
    """One answer a row, in order."""

    predictions: list[Answer]


class RetrieveRequest(BaseModel):
    """Rows that ask with one part of a pair, and rows among which the other part is looked for."""

    model_config = ConfigDict(extra="forbid")

    queries: list[Any] = Field(description="Rows that ask: objects from column name to value, or plain values of one part.")
    among: list[Any] = Field(description="Rows that can be found, the same.")
    top: int = Field(default=10, ge=1, description="Rows that are found for each row that asks, at most.")
    by: str | None = Field(
        default=None, description="The part that asks, by its name; found by looking at the columns of both sides if not given."
    )
    strict: bool = Field(default=False, description="Refuse the request if a row cannot be read (422).")


class FoundRow(BaseModel):
    """One row that was found."""

    row: int = Field(description="Its position in `among`, counted from 0.")
    cosine: float = Field(description="Of the two vectors, -1 to 1.")
    probability: float = Field(
        description="That it is this one and no other of `among`; fitted with the loss sigmoid, that both belong together."
    )
    about: dict[str, Any] = Field(description="Its columns that people can read: texts, numbers.")


class FoundFor(BaseModel):
    """What was found for one row, or why nothing was."""

    row: int = Field(description="Its position in `queries`, counted from 0.")
    matches: list[FoundRow] = Field(description="The nearest first.")
    error: str | None = Field(default=None, description="Why the row cannot ask.")


class RetrieveResponse(BaseModel):
    """What was found for each row that asks, in order."""

    found: list[FoundFor]


class Health(BaseModel):
    """Whether the server answers."""

    status: str = Field(description='"starting" while golden rows are replayed, then "ready", or "failed".')
    problems: list[dict[str, str]] = Field(default_factory=list)


@dataclass
class State:
    """What an application knows about itself while it runs.

    Args:
        status: "starting", "ready" or "failed".
        problems: Why it failed.
        waiting: Requests that wait or are being answered.
    """

    status: str = "starting"
    problems: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0


class _Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """End a request with a status and problems."""

    def __init__(self, status: int, *problems: Problem, retry_after_s: int | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.problems = problems
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class Desk:
    """Take requests, queue them, have one thread answer them.

    Args:
        predictor: Answers rows.
        options: Limits.
    """

    def __init__(self, predictor: Predictor, options: ServeOptions) -> None:
        self.predictor = predictor
        self.options = options
        self.state = State()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="regraft-predict")

    async def open(self, check: Callable[[], object]) -> None:
        """Run the check in the worker; ready only if it passes."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, check)
            self.state.status = "ready"
        except RegraftError as error:
            self.state.status = "failed"
            self.state.problems = [problem.to_json() for problem in error.problems]
            log.error("the artifact does not answer as it did: %s", error)
        except Exception:
            self.state.status = "failed"
            self.state.problems = [_failed().to_json()]
            log.exception("the golden rows could not be replayed")

    def close(self) -> None:
        """Stop the worker after what it is doing; what waits is dropped."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def answer(self, request: PredictRequest) -> PredictResponse:
        """Answer a request, or raise why not."""
        self._check_ready()
        self._check_size(rows=request.rows)
        return await self._answered(lambda: self._predict(request))

    async def retrieve(self, request: RetrieveRequest) -> RetrieveResponse:
        """Find what belongs to the rows of a request, or raise why not."""
        self._check_ready()
        self._check_pairs()
        self._check_size(queries=request.queries, among=request.among)
        self._check_matches(request)
        return await self._answered(lambda: self._retrieve(request))

    def _check_ready(self) -> None:
        if self.state.status != "ready":
            fix = "wait until GET /health says ready" if not self.state.problems else "see GET /health"
            what = f"the server is not ready ({self.state.status})"
            raise _Refused(503, Problem(what=what, fix=fix), retry_after_s=self.options.retry_after_s)

    async def _answered(self, work: Callable[[], T]) -> T:
        try:
            return await self._queued(work)
        except (RegraftError, _Refused):
            raise
        except Exception as error:
            # Answered here: the framework's last resort closes the connection under the client's next request.
            log.exception("a request failed")
            raise _Refused(500, _failed()) from error

    def _predict(self, request: PredictRequest) -> PredictResponse:
        predictor = self._asking(request)
        predictions = predictor.predict(request.rows, batch_size=self.options.batch_size, strict=request.strict)
        # Our own numbers are not checked again: validating every float would cost more than it could find.
        return PredictResponse.model_construct(predictions=[Answer.model_construct(**p.to_json()) for p in predictions])

    def _asking(self, request: PredictRequest) -> Predictor:
        """Return the predictor, telling beside answers what the request asks for; where it is silent, what the server does."""
        wanted = {name: value for name in _BESIDE if (value := getattr(request, name)) is not None}
        if not wanted:
            return self.predictor
        try:
            return self.predictor.asking(replace(self.predictor.asked, **wanted))
        except UsageError as error:
            raise _Refused(422, *error.problems) from error

    def _retrieve(self, request: RetrieveRequest) -> RetrieveResponse:
        question = Question(
            top=request.top,
            by=request.by,
            batch_size=self.options.batch_size,
            strict=request.strict,
            opens_files=False,
            by_name="by",
        )
        found = search(self.predictor, request.queries, request.among, question)
        return RetrieveResponse.model_construct(found=[_found(one) for one in found])

    def _check_pairs(self) -> None:
        try:
            parts_of(self.predictor)
        except UsageError as error:
            fix = f"{error.problems[0].fix}; this one answers POST /predict"
            raise _Refused(404, replace(error.problems[0], where="POST /retrieve", fix=fix)) from error

    def _check_matches(self, request: RetrieveRequest) -> None:
        each, limit = min(request.top, len(request.among)), self.options.max_matches
        if len(request.queries) * each > limit:
            got, expected = f"{len(request.queries)} rows that ask, {each} matches each", f"at most {limit} matches"
            fix = "send fewer queries a request, or a smaller top"
            what = "too many matches in one request"
            raise _Refused(422, Problem(what=what, where="top", got=got, expected=expected, fix=fix))

    async def _queued(self, work: Callable[[], T]) -> T:
        state, limit = self.state, self.options.max_waiting
        if state.waiting >= limit:
            what = "the server is busy"
            problem = Problem(
                what=what, got=f"{state.waiting} requests waiting", expected=f"fewer than {limit}", fix="try again soon"
            )
            raise _Refused(503, problem, retry_after_s=self.options.retry_after_s)
        # Counted where the work ends, not where a client waits for it: a client that goes away frees no place.
        state.waiting += 1
        done = asyncio.get_running_loop().run_in_executor(self._worker, work)
        done.add_done_callback(lambda _: self._leave())
        return await asyncio.shield(done)

    def _leave(self) -> None:
        self.state.waiting -= 1

    def _check_size(self, **lists: list[Any]) -> None:
        problems = [problem for name, rows in lists.items() for problem in self._oversized(name, rows)]
        if problems:
            raise _Refused(422, *problems)

    def _oversized(self, name: str, rows: list[Any]) -> list[Problem]:
        options = self.options
        if len(rows) > options.max_rows:
            fix = f"send at most {options.max_rows} rows a request"
            got, expected = f"{len(rows)} rows", f"at most {options.max_rows}"
            return [Problem(what="too many rows in one request", where=name, got=got, expected=expected, fix=fix)]
        if self.predictor.modality.looks:
            return []  # what a file holds is longer in text than a text is; the body as a whole has its limit
        columns, limit = self.predictor.columns, options.max_text_chars
        raws = [(i, raw) for i, row in enumerate(rows) for raw in _looked_at(row, columns)]
        long = [(i, len(raw)) for i, raw in raws if isinstance(raw, str) and len(raw) > limit]
        expected, of = f"at most {limit} characters", "" if name == "rows" else f"{name}, "
        return [
            Problem(
                what="a text is too long", where=f"{of}row {i + 1}", got=f"{n} characters", expected=expected, fix="shorten it"
            )
            for i, n in long
        ]


def _found(one: Found) -> FoundFor:
    matches = [FoundRow.model_construct(**{**vars(match), "about": _as_json(match)}) for match in one.matches]
    if one.error:
        return FoundFor.model_construct(row=one.row, matches=matches, error=one.error)
    return FoundFor.model_construct(row=one.row, matches=matches)


def _as_json(match: Match) -> dict[str, Any]:
    """Return what is said about a match, without numbers that JSON has no word for."""
    return {name: value for name, value in match.about.items() if not isinstance(value, float) or math.isfinite(value)}


def _looked_at(row: Any, columns: Sequence[str]) -> list[Any]:
    """Return what a predictor looks at of one row of a request."""
    return [row.get(name) for name in columns] if isinstance(row, Mapping) else [row]


def create_app(
    predictor: Predictor,
    info: Mapping[str, Any],
    options: ServeOptions | None = None,
    *,
    check: Callable[[], object] = lambda: None,
    loopback_only: bool = False,
) -> App:
    """Return the application.

    Args:
        predictor: Answers rows.
        info: What GET /info says.
        options: Limits and the token.
        check: Runs before the server says ready (golden rows are replayed); by raising it keeps the server from answering.
        loopback_only: Whether requests must be addressed to this machine.
    """
    from fastapi import FastAPI

    options = options or ServeOptions()
    desk = Desk(predictor, options)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        opening = asyncio.ensure_future(desk.open(check))
        yield
        opening.cancel()
        desk.close()

    # The pages that FastAPI draws from the schema load scripts from other people's servers: blank offline, and not ours.
    pages = {"docs_url": None, "redoc_url": None}
    app = FastAPI(title="Regraft", version=__version__, lifespan=lifespan, description="Answers of one artifact.", **pages)
    app.state.desk = desk
    _add_routes(app, desk, info)
    _add_errors(app)
    return Guard(app, token=options.token or "", max_body_bytes=options.max_body_bytes, loopback_only=loopback_only)


def _add_routes(app: Any, desk: Desk, info: Mapping[str, Any]) -> None:
    from fastapi import Response

    async def predict(request: PredictRequest) -> PredictResponse:
        """Answer rows, in order; a row that cannot be answered says why in its place."""
        return await desk.answer(request)

    async def retrieve(request: RetrieveRequest) -> RetrieveResponse:
        """Find among rows what belongs to rows that ask, in order; a row that cannot be read says why in its place."""
        return await desk.retrieve(request)

    async def health(response: Response) -> Health:
        """Say whether the server answers; 503 until the golden rows have been replayed."""
        response.status_code = 200 if desk.state.status == "ready" else 503
        return Health(status=desk.state.status, problems=desk.state.problems)

    async def about() -> dict[str, Any]:
        """Say what is served: task, labels, columns, evidence, digests."""
        return dict(info)

    app.add_api_route("/predict", predict, methods=["POST"], response_model=PredictResponse, response_model_exclude_unset=True)
    app.add_api_route(
        "/retrieve", retrieve, methods=["POST"], response_model=RetrieveResponse, response_model_exclude_unset=True
    )
    app.add_api_route("/health", health, methods=["GET"], response_model=Health)
    app.add_api_route("/info", about, methods=["GET"], response_model=dict[str, Any])


def _add_errors(app: Any) -> None:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def say(status: int, problems: list[Problem], headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"problems": [p.to_json() for p in problems]}, status_code=status, headers=dict(headers or {}))

    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return say(error.status, list(error.problems), error.headers)

    async def ours(_: Request, error: RegraftError) -> JSONResponse:
        return say(422 if isinstance(error, DataError) else 500, list(error.problems))

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return say(422, [_invalid(item, request.url.path) for item in error.errors()])

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        if error.status_code == _NO_BODY:  # the framework's own words for a body that its parser gave up on
            return say(_NO_BODY, [_unread(request.url.path, where="body", expected="JSON in UTF-8")])
        fix = "use POST /predict, POST /retrieve, GET /health, GET /info or GET /openapi.json"
        return say(error.status_code, [Problem(what=str(error.detail), where=where, fix=fix)], error.headers)

    async def failed(_: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return say(500, [_failed()])

    app.add_exception_handler(_Refused, refused)
    app.add_exception_handler(RegraftError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)


def _invalid(item: Mapping[str, Any], path: str) -> Problem:
    where = ".".join(str(part) for part in item["loc"])
    broken = item.get("ctx", {}).get("error") if item["type"] == "json_invalid" else None
    if broken:
        return _unread(path, where=where, got=f"{broken} at character {item['loc'][-1]}", expected="JSON")
    return _unread(path, where=where, got=repr(item.get("input"))[:80], expected=item["msg"])


def _unread(path: str, *, where: str, got: str = "", expected: str) -> Problem:
    fix = f"send {_SHAPES.get(path, _SHAPES['/predict'])} with Content-Type: application/json"
    return Problem(what="the request cannot be read", where=where, got=got, expected=expected, fix=fix)


def _failed() -> Problem:
    return Problem(what="the server failed on this request", fix="see the server's log; the next request is not affected")


def info_of(predictor: Predictor, facts: Mapping[str, Any], options: ServeOptions) -> dict[str, Any]:
    """Return what GET /info says about a predictor.

    Args:
        predictor: What answers.
        facts: As `regraft.artifact.describe.describe` returned them.
        options: The server's; the limits are told, the token is not.
    """
    kept = ("digest", "weights_digest", "created", "versions", "task", "inputs", "target", "base", "seed", "report")
    limits = {name: value for name, value in asdict(options).items() if name.startswith("max_")}
    labels = list(predictor.example().probabilities)
    told = {name: facts[name] for name in kept if name in facts}
    return {"regraft": __version__, "columns": list(predictor.columns), "labels": labels, "limits": limits, **told}
