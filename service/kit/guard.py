"""Who may talk to the service: the Host header, pages of other sites, the API key."""

import base64
import binascii
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.kit.errors import MisdirectedError, ServiceError, UnauthorizedError, problem_of
from service.settings import LOOPBACK, Settings

#: answered without a key: whoever watches the service has none
OPEN = ("/healthz", "/readyz")
MAX_BODY = 1_000_000


class ForbiddenError(ServiceError):
    """A page of another site, in the user's browser, asks for a change."""

    status = 403


class LengthRequiredError(ServiceError):
    status = 411


class TooLargeError(ServiceError):
    status = 413


class Guard:
    """ASGI middleware before everything else."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._key = settings.api_key.get_secret_value() if settings.api_key else None
        #: a name that resolves to a loopback address may be any site's (DNS rebinding); off loopback, the key protects
        self._hosts = {*LOOPBACK, *settings.allowed_hosts} if settings.on_loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope, Headers(scope=scope))
        except ServiceError as error:
            headers = {"WWW-Authenticate": 'Basic realm="temper", Bearer'} if error.status == 401 else None
            await problem_of(error).response(headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise MisdirectedError(
                f"this service does not answer to the host {host!r}",
                mend="ask for 127.0.0.1 or localhost, or add the name to TEMPER_ALLOWED_HOSTS",
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                raise ForbiddenError(f"a page of {origin} may not change anything here")
            if "transfer-encoding" in headers:
                raise LengthRequiredError("the body's length is not given", mend="send it with a Content-Length")
            if (length := headers.get("content-length", "0")).isdecimal() and int(length) > MAX_BODY:
                raise TooLargeError(f"the body has {int(length):,} bytes, expected at most {MAX_BODY:,}")
        if self._key is not None and scope["path"] not in OPEN:
            given = _credential(headers.get("authorization", ""))
            if not secrets.compare_digest(given.encode(), self._key.encode()):
                raise UnauthorizedError("the API key is missing or wrong", mend="send it as a bearer token")


def _name(host: str) -> str:
    """The host of a Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _credential(authorization: str) -> str:
    """The key of `Bearer KEY`, or the password of Basic, which browsers ask their user for."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
