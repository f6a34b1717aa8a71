"""Published checkpoints over HTTP: manifests, and files that can be taken up again where a download broke off."""

import base64
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel

from service.artifacts.store import Artifact, Store
from service.jobs.schemas import Page
from service.kit.dependencies import AppSettings, Limit
from service.kit.errors import InvalidError

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

CHUNK = 4 * 2**20


class FileView(BaseModel):
    path: str
    size: int
    sha256: str


class ArtifactView(BaseModel):
    """A published checkpoint; `files` is what `sha` stands for."""

    id: str
    object: str = "artifact"
    namespace: str
    name: str
    sha: str
    created_at: datetime
    size: int
    files: list[FileView]

    @classmethod
    def of(cls, artifact: Artifact) -> "ArtifactView":
        return cls(
            id=artifact.reference,
            namespace=artifact.namespace,
            name=artifact.name,
            sha=artifact.sha,
            created_at=artifact.created_at,
            size=artifact.size,
            files=[FileView(path=file.path, size=file.size, sha256=file.sha256) for file in artifact.files],
        )


class _File(FileResponse):
    """Large pieces: with Starlette's 64 KB a download reaches a quarter of this speed."""

    chunk_size = CHUNK


Reference = Annotated[str, Path(description="NAME or NAME@SHA; without a sha, `main`", pattern=r"^[^@/]+(@[^@/]+)?$")]


@router.get("")
def listed(settings: AppSettings, after: str | None = None, limit: Limit = 20) -> Page[ArtifactView]:
    """Artifacts, the newest first; `after` is the `last_id` of the page before."""
    everything = [ArtifactView.of(artifact) for artifact in Store(settings.artifacts).all()]
    if after is not None:
        places = [index for index, view in enumerate(everything) if view.id == after]
        if not places:
            raise InvalidError(f"after={after!r} is not an artifact", mend="give the `last_id` of the page before")
        everything = everything[places[0] + 1 :]
    data = everything[:limit]
    return Page[ArtifactView](data=data, has_more=len(everything) > limit, last_id=data[-1].id if data else None)


@router.get("/{namespace}/{reference}")
def manifest(namespace: str, reference: Reference, settings: AppSettings) -> ArtifactView:
    """One artifact with its files and their hashes."""
    return ArtifactView.of(_find(settings, namespace, reference))


@router.api_route("/{namespace}/{reference}/files/{path:path}", methods=["GET", "HEAD"], response_class=FileResponse)
def file(namespace: str, reference: Reference, path: str, request: Request, settings: AppSettings) -> Response:
    """A file. `ETag` is its sha256; `Range` with `If-Range` goes on with a download that broke off."""
    artifact = _find(settings, namespace, reference)
    entry = artifact.file(path)
    etag = f'"{entry.sha256}"'
    fixed = "@" in reference and not reference.endswith("@main")
    headers = {
        "ETag": etag,
        "X-Checksum-SHA256": entry.sha256,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(entry.sha256)).decode()}:",
        "X-Repo-Commit": artifact.sha,
        "Cache-Control": "public, max-age=31536000, immutable" if fixed else "no-cache",
    }
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return _File(artifact.folder / entry.path, headers=headers, media_type=_media_type(path))


def _find(settings: AppSettings, namespace: str, reference: str) -> Artifact:
    name, _, revision = reference.partition("@")
    return Store(settings.artifacts).get(namespace, name, revision or "main")


def _media_type(path: str) -> str:
    """What a browser may show is shown as plain text: a model card is nobody's page."""
    suffixes = {".json": "application/json", ".md": "text/plain", ".yaml": "text/plain", ".jinja": "text/plain"}
    return next((kind for suffix, kind in suffixes.items() if path.endswith(suffix)), "application/octet-stream")
