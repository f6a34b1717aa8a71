"""The service from Python: submit, follow and cancel jobs, pull checkpoints.

with Client() as temper:
    job = temper.submit(request)
    for event in temper.stream(job.id): ...
    temper.pull(temper.job(job.id).artifact, Path("merged"))
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from datagen.errors import TemperError
from service.artifacts.download import Downloaded, download
from service.artifacts.store import parse
from service.jobs.schemas import EventView, MergeJob, MergeJobRequest, TrialView
from service.kit.fields import Fault

DEFAULT_URL = "http://127.0.0.1:8642"


class ClientError(TemperError):
    """The service refused a request: `status` is HTTP's, `faults` the places in the body."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", f"the service answered {status}")), mend=problem.get("mend"))
        self.status = status
        self.faults = tuple(
            Fault(str(fault.get("pointer", "")), str(fault.get("detail", "")), fault.get("mend"))
            for fault in problem.get("errors", ())
        )


class UnreachableError(TemperError):
    """Nobody answers at the service's address."""


class Client:
    """One service. Address and key come from TEMPER_URL and TEMPER_API_KEY where they are not given."""

    def __init__(self, url: str | None = None, key: str | None = None, *, http: httpx.Client | None = None) -> None:
        self.url = (url or os.environ.get("TEMPER_URL") or DEFAULT_URL).rstrip("/")
        key = key or os.environ.get("TEMPER_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(30.0, connect=5.0)
        self._http = http or httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def submit(self, request: MergeJobRequest | Mapping[str, Any], *, key: str | None = None) -> MergeJob:
        """Submit a job. With an idempotency `key` a repetition gives the first answer.

        Raises:
            ClientError: the job is not accepted.
            UnreachableError.
        """
        body = request.model_dump(mode="json") if isinstance(request, MergeJobRequest) else dict(request)
        headers = {"Idempotency-Key": key} if key else {}
        return MergeJob.model_validate(self._ask("POST", "/v1/merge_jobs", json=body, headers=headers))

    def job(self, job_id: str) -> MergeJob:
        return MergeJob.model_validate(self._ask("GET", f"/v1/merge_jobs/{_part(job_id)}"))

    def jobs(self, *, limit: int = 100) -> Iterator[MergeJob]:
        """All jobs from the newest on, fetched page by page."""
        yield from map(MergeJob.model_validate, self._all("/v1/merge_jobs", limit))

    def cancel(self, job_id: str) -> MergeJob:
        return MergeJob.model_validate(self._ask("POST", f"/v1/merge_jobs/{_part(job_id)}/cancel"))

    def resume(self, job_id: str) -> MergeJob:
        return MergeJob.model_validate(self._ask("POST", f"/v1/merge_jobs/{_part(job_id)}/resume"))

    def trials(self, job_id: str, *, coefficients: bool = False) -> Iterator[TrialView]:
        """All trials by number."""
        path = f"/v1/merge_jobs/{_part(job_id)}/trials"
        yield from map(TrialView.model_validate, self._all(path, 500, coefficients=coefficients))

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> list[EventView]:
        """Kept events later than the event `after`, oldest first, `limit` at most."""
        query = {"after": after, "limit": limit}
        page = self._ask("GET", f"/v1/merge_jobs/{_part(job_id)}/events", params=query)
        return [EventView.model_validate(event) for event in page["data"]]

    def report(self, job_id: str) -> dict[str, Any]:
        """Held-out results of a job that has come so far."""
        return dict(self._ask("GET", f"/v1/merge_jobs/{_part(job_id)}/report"))

    def stream(self, job_id: str, *, after: int = 0, patience: float = 60.0) -> Iterator[EventView]:
        """Events as they happen until the job has ended; takes up a broken connection where it broke.

        Raises:
            UnreachableError: the service stayed away for `patience` seconds.
        """
        path, heard = f"/v1/merge_jobs/{_part(job_id)}/events", time.monotonic()
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._http.stream("GET", path, headers=headers) as answer:
                    if answer.status_code == 204:
                        return
                    if answer.is_error:
                        answer.read()
                        raise _refusal(answer)
                    for event in _events(answer.iter_lines()):
                        heard = time.monotonic()
                        after = event.id
                        yield event
            except httpx.TransportError as error:
                if time.monotonic() - heard > patience:
                    raise self._unreachable(error) from error
                time.sleep(1.0)

    def artifact(self, reference: str) -> dict[str, Any]:
        """The manifest of NAMESPACE/NAME[@SHA]: `sha`, `size`, `files`."""
        namespace, name, revision = parse(reference)
        return dict(self._ask("GET", f"/v1/artifacts/{_part(namespace)}/{_part(name)}@{_part(revision)}"))

    def pull(self, reference: str, folder: Path, progress: Downloaded | None = None) -> Path:
        """Download an artifact into `folder`, every file checked against its sha256; going on where an earlier pull was
        cut off.

        Args:
            progress: called with (bytes done, bytes in all, path of the file).

        Returns:
            `folder`.

        Raises:
            TransferError: a file does not arrive whole, or `folder` holds something else.
        """
        manifest = self.artifact(reference)
        try:
            download(self._http, manifest, folder, progress)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return folder

    def _all(self, path: str, limit: int, **query: object) -> Iterator[Any]:
        after: str | None = None
        while True:
            asked = {"limit": limit, **query} | ({"after": after} if after is not None else {})
            page = self._ask("GET", path, params=asked)
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["last_id"]

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise _refusal(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise UnreachableError(f"{self.url} answers, but is no Temper service", mend="check TEMPER_URL") from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"no Temper service answers at {self.url} ({error or type(error).__name__})",
            mend="start one with `temper serve`, or set TEMPER_URL",
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _part(text: str) -> str:
    """One step of a path, whatever the user typed."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" and text else quote(text, safe="") or "%20"


def _refusal(answer: httpx.Response) -> ClientError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    return ClientError(answer.status_code, problem if isinstance(problem, dict) else {})


def _events(lines: Iterator[str]) -> Iterator[EventView]:
    """Server-sent events; an event's data is one JSON object."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").strip())
        elif not line and data:
            yield EventView.model_validate(json.loads("\n".join(data)))
            data = []
