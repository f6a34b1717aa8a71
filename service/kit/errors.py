"""Errors of the service with their HTTP status, and how every error is told: problem+json (RFC 9457).

A problem carries `title`, `status`, `detail`, `mend` and `errors: [{pointer, detail, mend}]`, where `pointer` is a JSON
pointer (RFC 6901) into the body.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from datagen.errors import TemperError
from service.kit.fields import Fault, explain

log = logging.getLogger(__name__)


class ServiceError(TemperError):
    """An error of the service; `status` is what HTTP answers, `faults` the places in the body, if any."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, *, mend: str | None = None, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message, mend=mend)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = [super().__str__()]
        for fault in self.faults:
            where = fault.pointer or "the request"
            lines.append(f"  {where}: {fault.detail}" + (f" ({fault.mend})" if fault.mend else ""))
        return "\n".join(lines)


class UnauthorizedError(ServiceError):
    status = 401


class NotFoundError(ServiceError):
    status = 404


class ConflictError(ServiceError):
    """The thing is not in a state that allows what was asked."""

    status = 409


class MisdirectedError(ServiceError):
    """The Host header names another site: a page elsewhere may be trying DNS rebinding."""

    status = 421


class InvalidError(ServiceError):
    """A request that is well formed and cannot be carried out."""

    status = 422


class UnreadyError(ServiceError):
    """The service is up and a part it needs is not."""

    status = 503


@dataclass(frozen=True)
class Problem:
    """What an error becomes on the wire."""

    status: int
    detail: str
    mend: str | None = None
    faults: tuple[Fault, ...] = ()

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.mend:
            body["mend"] = self.mend
        if self.faults:
            body["errors"] = [{k: v for k, v in asdict(fault).items() if v is not None} for fault in self.faults]
        return body

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers, media_type="application/problem+json")


def problem_of(error: TemperError) -> Problem:
    """An error of ours as a problem; errors that do not come from the service are the request's fault."""
    if isinstance(error, ServiceError):
        return Problem(error.status, error.message, error.mend, error.faults)
    return Problem(422, error.message, error.mend)


def install(app: FastAPI) -> None:
    """Answer every error with a problem."""

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, TemperError)
        headers = {"WWW-Authenticate": 'Basic realm="temper", Bearer'} if isinstance(error, UnauthorizedError) else None
        return problem_of(error).response(headers)

    async def unreadable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        faults = tuple(explain(error.errors(), _body_model(request), drop=("body",)))
        count = f"{len(faults)} fields are" if len(faults) > 1 else "a field is"
        return Problem(422, f"{count} not what the request expects", faults=faults).response()

    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return Problem(error.status_code, str(error.detail)).response(dict(error.headers or {}))

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Problem(500, "an error of the service itself; its log has the details").response()

    app.add_exception_handler(TemperError, ours)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _body_model(request: Request) -> type[BaseModel] | None:
    """The model that the route's body is read into, so that a misspelt field can be told its nearest name."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = getattr(getattr(field, "field_info", None), "annotation", None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
