"""Templates to responses: the environment, the headers every page has, and how an error looks to a person."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Scope

from datagen.errors import TemperError
from service.dashboard import formatting
from service.kit.errors import NotFoundError, problem_of

_HERE = Path(__file__).parent
#: no inline script or style, nothing from another host, no framing
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

environment = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
formatting.install(environment)


def render(template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """The page `template` of `context`."""
    return HTMLResponse(environment.get_template(template).render(**context), status, _HEADERS)


class PageRoute(APIRoute):
    """A route whose errors are pages too, where the API's are problems."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                return _error(NotFoundError("this address asks for something that no page has"))
            except TemperError as error:
                return _error(error)

        return page


def _error(error: TemperError) -> HTMLResponse:
    problem = problem_of(error)
    title = HTTPStatus(problem.status).phrase
    return render("error.html", problem.status, title=title, problem=problem)


class FreshFiles(StaticFiles):
    """Static files that a browser asks about each time (304 by ETag): a newer page never meets an older script."""

    def __init__(self) -> None:
        super().__init__(directory=_HERE / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
