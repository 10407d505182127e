"""The addresses of the app, and what each gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from vrshq.errors import UserError
from vrshq.pipelines.app.asking import Busy
from vrshq.pipelines.app.catalogue import Query
from vrshq.pipelines.app.roots import NotAllowed
from vrshq.pipelines.app.state import State
from vrshq.pipelines.app.uploads import UploadRefused
from vrshq.pipelines.label.tables.opened import NoSuchRow
from vrshq.pipelines.label.tables.reviews import LONGEST_COMMENT, LONGEST_JUDGE, Verdict

logger = logging.getLogger("vrshq.app")

# The types of the page's files, by suffix.
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUSES: list[tuple[type[UserError], int]] = [(NoSuchRow, 404), (NotAllowed, 403), (Busy, 409), (UploadRefused, 422)]
# A frame of a video does not change while the app runs, whose address has a new token each time.
_KEPT = {"Cache-Control": "private, max-age=3600"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JudgementBody(_Body):
    """A judgement from the page; `part` is a random number that makes a second try harmless."""

    part: str = Field(pattern="^[0-9a-f]{32}$")
    video: str
    instruction: str
    judge: str = Field(min_length=1, max_length=LONGEST_JUDGE)
    verdict: Verdict
    comment: str = Field(default="", max_length=LONGEST_COMMENT)


class QuestionBody(_Body):
    """A question from the page: a path inside the video roots, or an upload's path, and the sentences."""

    video: str = Field(min_length=1, max_length=4096)
    texts: list[str] = Field(max_length=64)


def build(state: State) -> FastAPI:
    """The app without its guard. FastAPI's own pages of documentation are off: they load from other hosts."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers(state):
        app.include_router(router)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 400)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        logger.exception("a request failed", exc_info=error)
        return JSONResponse({"error": f"the app failed: {type(error).__name__}: {error}"}, 500)

    return app


def routers(state: State) -> list[APIRouter]:
    """All addresses: those of the page's files, of runs, and of questions."""
    return [_page(), _runs(state), _questions(state)]


def _page() -> APIRouter:
    router = APIRouter()
    for file in (files("vrshq.pipelines.app") / "page").iterdir():
        kind = _TYPES.get(PurePosixPath(file.name).suffix)
        if kind is not None:
            address = "/" if file.name == "index.html" else f"/{file.name}"
            router.add_api_route(address, _file(file.read_bytes(), kind), methods=["GET"], response_class=Response)
    return router


def _file(content: bytes, kind: str) -> Callable[[], Response]:
    def serve() -> Response:
        return Response(content, media_type=kind)

    return serve


def _query(  # each parameter is one of the address
    status: str = "",
    text: str = "",
    video: str = "",
    least: float | None = None,
    most: float | None = None,
    outcome: str = "",
    sort: str = "",
) -> Query:
    return Query(status, text, video, least, most, outcome, sort)


_Chosen = Annotated[Query, Depends(_query)]


def _runs(state: State) -> APIRouter:
    router = APIRouter(prefix="/api/runs")

    @router.get("")
    def all_runs() -> dict[str, Any]:
        return state.about()

    @router.get("/{name}")
    def facts(name: str) -> dict[str, Any]:
        return state.run(name).facts()

    @router.post("/{name}/refresh")
    def refresh(name: str) -> dict[str, Any]:
        state.run(name).refresh()
        return state.run(name).facts()

    @router.get("/{name}/rows")
    def rows(name: str, query: _Chosen, offset: int = 0, limit: int = 48) -> dict[str, Any]:
        return state.run(name).page(query, offset, limit)

    @router.get("/{name}/thumbnails")
    def thumbnails(name: str, rows: str) -> list[dict[str, Any]]:
        return state.run(name).thumbnails([int(row) for row in rows.split(",") if row.isdecimal()])

    @router.get("/{name}/instruction")
    def instruction(name: str, id_video: str, id_instruction: str, query: _Chosen) -> dict[str, Any]:
        return state.run(name).instruction((id_video, id_instruction), query)

    @router.get("/{name}/masks")
    def masks(name: str, id_video: str, id_instruction: str, first: int, last: int) -> list[dict[str, Any]]:
        return state.run(name).masks((id_video, id_instruction), first, last)

    @router.get("/{name}/frame")
    def frame(name: str, id_video: str, id_instruction: str, number: int, size: int = 960) -> Response:
        picture = state.run(name).picture((id_video, id_instruction), number, size)
        return Response(picture, media_type="image/jpeg", headers=_KEPT)

    @router.get("/{name}/agreement")
    def agreement(name: str) -> list[dict[str, Any]]:
        return state.run(name).agreement()

    @router.post("/{name}/reviews")
    def judge(name: str, body: JudgementBody) -> dict[str, Any]:
        key = (body.video, body.instruction)
        return state.run(name).judge(body.part, key, body.judge, body.verdict, body.comment)

    return router


def _questions(state: State) -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/question")
    def now() -> dict[str, Any]:
        return {"question": state.asking.now()}

    @router.post("/question")
    def ask(body: QuestionBody) -> dict[str, Any]:
        state.asking.ask(state.allowed(body.video), body.texts)
        return {"question": state.asking.now()}

    @router.delete("/question")
    def stop() -> dict[str, Any]:
        state.asking.stop()
        return {"question": state.asking.now()}

    @router.put("/uploads")
    async def upload(request: Request, name: str) -> dict[str, str]:
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else None
        return {"video": await state.uploads.take(name, size, request.stream())}

    return router
