"""Images: present, or pulled, or built, telling how far it is. Every wait has two limits: silence, and all of it."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import structlog
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import parse_repository_tag

from domain.errors import ClosError, ImageMissing, StartFailed, TimedOut
from domain.specs import ServiceSpec
from workers.runtimes.docker_builds import packed, parameters
from workers.runtimes.docker_client import EngineClient
from workers.runtimes.docker_config import image_of
from workers.runtimes.docker_errors import BROKEN, image_error, reason, status, translated, unreachable
from workers.runtimes.docker_names import Marks
from workers.runtimes.fence import before_effect
from workers.runtimes.protocol import Progress

log = structlog.get_logger()

_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an image may take, and how long nothing may be heard of it, in seconds."""

    pull_s: float = 900.0
    pull_silence_s: float = 60.0
    build_s: float = 1800.0
    # A compiler is silent for long.
    build_silence_s: float = 600.0


class Images:
    """Has the images of services."""

    def __init__(self, client: EngineClient, marks: Marks, limits: Limits) -> None:
        self._client = client
        self._marks = marks
        self._limits = limits

    def present(self, ref: str) -> bool:
        """Whether the engine has it."""
        try:
            with translated(f"look for image {ref}"):
                self._client.api().inspect_image(ref)
        except ClosError as error:
            if isinstance(error.__cause__, (ImageNotFound, NotFound)):
                return False
            # A name that cannot be one: `prepare` tells what is wrong with it.
            if isinstance(error.__cause__, APIError) and status(error.__cause__) == 400:
                return False
            raise
        return True

    def have(self, spec: ServiceSpec, progress: Progress) -> None:
        """Pull or build what is not present."""
        ref = image_of(spec)
        if self.ready(spec):
            return
        if spec.build:
            self._build(spec, ref, spec.build, progress)
        elif spec.container.get("pull_policy") in ("never", "build"):
            policy = spec.container["pull_policy"]
            hint = "get it yourself (`docker pull`, `docker load`), or change `pull_policy`"
            raise ImageMissing(f"image {ref} is not here, and pull_policy is {policy}", hint=hint, image=ref)
        else:
            self._pull(ref, spec.container.get("platform"), progress)

    def ready(self, spec: ServiceSpec) -> bool:
        """Whether nothing is to be done: the image is here, and its policy does not want it anew each time."""
        anew = "build" if spec.build else "always"
        return spec.container.get("pull_policy") != anew and self.present(image_of(spec))

    def _pull(self, ref: str, platform: str | None, progress: Progress) -> None:
        repository, tag = parse_repository_tag(ref)
        limits = self._limits
        progress(f"pulling {ref}")
        try:
            login = self._login(repository)
            response = self._client.request(
                "POST",
                "/images/create",
                params={"fromImage": repository, "tag": tag or "latest"} | ({"platform": platform} if platform else {}),
                headers={"X-Registry-Auth": login} if login else None,
                idle_s=limits.pull_silence_s,
                stream=True,
            )
            with response:
                self._follow(f"pulling {ref}", _messages(response), progress, limits.pull_s)
        except APIError as error:
            raise image_error(reason(error), ref) from error
        except _Refused as refusal:
            raise image_error(str(refusal), ref) from refusal
        except BROKEN as error:
            raise _broken(error, f"pulling {ref}", limits.pull_silence_s) from error
        if not self.present(ref):
            raise ImageMissing(f"image {ref} was pulled and is not there", hint="check its platform", image=ref)

    def _login(self, repository: str) -> str | None:
        """What `docker login` left for the registry, as `docker pull` sends it."""
        api = self._client.api()
        try:
            header = get_config_header(api, resolve_repository_name(repository)[0])
        except DockerException as error:
            # A broken credential helper must not keep public images away.
            log.warning("registry.login_unread", why=reason(str(error)))
            return None
        return header.decode() if isinstance(header, bytes) else header

    def _build(self, spec: ServiceSpec, ref: str, build: Mapping[str, Any], progress: Progress) -> None:
        context = Path(str(build.get("context", "")))
        if not context.is_absolute() or not context.is_dir():
            raise StartFailed(f"build context {context} of {spec.id} is not a folder", hint="correct `build:`")
        progress(f"building {ref}")
        lines: list[str] = []
        try:
            with self._built(spec, build, ref) as response:
                self._follow(f"building {ref}", _messages(response), progress, self._limits.build_s, lines)
        except APIError as error:
            raise _build_error(reason(error), spec, lines) from error
        except _Refused as refusal:
            raise _build_error(str(refusal), spec, lines) from refusal
        except BROKEN as error:
            if isinstance(error, OSError) and error.filename:  # a file of the context, not the engine's socket
                raise StartFailed(f"the build of {spec.id} failed: {error}", hint="correct `build:`") from error
            raise _broken(error, f"building {ref}", self._limits.build_silence_s) from error

    def _built(self, spec: ServiceSpec, build: Mapping[str, Any], ref: str) -> requests.Response:
        """The engine's answer while it builds. docker-py's own call knows neither all options nor several names."""
        labels = {self._marks.label("instance"): self._marks.instance_id}
        context, dockerfile = packed(build)
        headers = {"Content-Type": "application/x-tar"}
        self._client.api()._set_auth_headers(headers)
        with context:
            before_effect()
            return self._client.request(
                "POST",
                "/build",
                params=parameters(spec, build, ref, labels) | {"dockerfile": dockerfile},
                data=context,
                headers=headers,
                idle_s=self._limits.build_silence_s,
                stream=True,
            )

    @staticmethod
    def _follow(
        doing: str,
        messages: Iterable[Mapping[str, Any]],
        progress: Progress,
        limit_s: float,
        lines: list[str] | None = None,
    ) -> None:
        deadline = time.monotonic() + limit_s
        for message in messages:
            if error := message.get("error"):
                raise _Refused(error)
            for line in _told(message):
                progress(line)
                if lines is not None:
                    lines.append(line)
                    del lines[:-_KEPT_LINES]
            if time.monotonic() > deadline:
                raise TimedOut(f"{doing} took longer than {limit_s:g} s", hint="try it by hand, then start again")


class _Refused(Exception):
    """The stream ended with an error in it."""


def _messages(response: requests.Response) -> Iterator[Mapping[str, Any]]:
    for line in response.iter_lines():
        if line.strip():
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                yield message


def _told(message: Mapping[str, Any]) -> list[str]:
    if "stream" in message:
        return [reason(line) for line in str(message["stream"]).splitlines() if line.strip()]
    text = " ".join(str(message[key]) for key in ("id", "status", "progress") if message.get(key))
    return [reason(text)] if text else []


def _broken(error: BaseException, doing: str, silence_s: float) -> ClosError:
    if re.search("timed out", str(error), re.IGNORECASE):
        return TimedOut(
            f"{doing}: nothing was heard for {silence_s:g} s",
            hint="the registry or the engine hangs: try it by hand",
        )
    return unreachable(error)


def _build_error(text: str, spec: ServiceSpec, lines: list[str]) -> ClosError:
    base = image_error(text, "of its Dockerfile's FROM")
    if isinstance(base, ImageMissing) or "dial tcp" in text or "lookup " in text:
        return base
    return StartFailed(
        f"the build of {spec.id} failed: {reason(text)}",
        hint="the last lines of the build are in `output`; `docker build` shows all of it",
        output=list(lines),
    )
