"""A folder that `docker build` makes a server of: the artifact as it is, a Dockerfile, what is installed in which version.

    docker build -t spam FOLDER
    docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -e REGRAFT_TOKEN spam

A container listens beyond its own loopback, so that it starts only with a token; no secret is ever part of the image.
"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from regraft.errors import Problem
from regraft.exporters.as_is import copy_artifact, copy_faults, requirements
from regraft.exporters.exporter import Exporter, Source, Written
from regraft.options import Field, options

DOCKERFILE, IGNORE, REQUIREMENTS = "Dockerfile", ".dockerignore", "requirements.txt"
USER = 10001
_INSIDE = "/opt/artifact"
_TAGGED = re.compile(r"[a-z0-9][a-z0-9./_:-]*?(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})")
_IGNORED = (".git", ".env", "**/.DS_Store", "**/Thumbs.db", "**/desktop.ini", "**/*.pem", "**/*.key")
_HEALTH = (
    "import urllib.request as r; r.build_opener(r.ProxyHandler({{}})).open('http://127.0.0.1:{port}/health', timeout=4).close()"
)


@options
class DockerOptions:
    """What the image is made from."""

    image: str | None = None
    """Image to start from, with a tag or digest; Python's slim image of the version that runs here if not given."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port inside the container."""

    index: str | None = None
    """Another package index (https) for pip, for example one with builds of torch for processors only."""


class DockerExporter(Exporter):
    """A Docker build context: slim, pinned, without root, with a health check, around an artifact of any form."""

    Options: ClassVar[type[Any]] = DockerOptions
    name = "docker"
    reads = None

    def problems(self, source: Source) -> list[Problem]:
        """Return options that would make an image that nobody can build again, or that holds a secret."""
        problems = []
        image, index = self._image(), self.options.index
        tag = _TAGGED.fullmatch(image)
        if tag is None or tag.group(1) == ":latest":
            fix = "name an image such as python:3.12.8-slim-bookworm"
            what = "the image to start from is not pinned"
            problems.append(Problem(what=what, where="format.image", got=image, expected="a tag or a digest", fix=fix))
        if index is not None and not _is_plain_https(index):
            fix = "give the address alone; pip reads secrets from a mounted file (docker build --secret)"
            what, expected = (
                "the package index cannot stand in a Dockerfile",
                "an https address without user, password and spaces",
            )
            problems.append(Problem(what=what, where="format.index", got=_without_secret(index), expected=expected, fix=fix))
        return problems

    def write(self, source: Source, folder: Path) -> Written:
        """Copy the artifact's files and write what `docker build` reads beside them."""
        port = f"127.0.0.1:{self.options.port}:{self.options.port}"
        run = f"docker run --rm --read-only --tmpfs /tmp -p {port} -e REGRAFT_TOKEN IMAGE"
        written = copy_artifact(
            source, folder, (f"docker build -t IMAGE {source.name}", f"{run} (it starts only with a token)")
        )
        (folder / REQUIREMENTS).write_text("\n".join(requirements(source, "serve")) + "\n", encoding="utf-8")
        (folder / IGNORE).write_text("\n".join(_IGNORED) + "\n", encoding="utf-8")
        (folder / DOCKERFILE).write_text(self._dockerfile(), encoding="utf-8")
        return written

    def faults(self, source: Source, folder: Path) -> list[Problem]:
        """Return files that are not the source's."""
        return copy_faults(source, folder, frozenset({DOCKERFILE, IGNORE, REQUIREMENTS}))

    def _image(self) -> str:
        return self.options.image or f"python:{platform.python_version()}-slim-bookworm"

    def _dockerfile(self) -> str:
        port = self.options.port
        index = f"--extra-index-url {self.options.index} " if self.options.index else ""
        serve = ["regraft", "serve", _INSIDE, "--host", "0.0.0.0", "--port", str(port)]  # noqa: S104 - with a token, see above
        lines = [
            f"FROM {self._image()}",
            "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 REGRAFT_CACHE=/tmp/regraft",
            "WORKDIR /opt",
            f"COPY {REQUIREMENTS} /opt/{REQUIREMENTS}",
            f"RUN pip install --no-cache-dir {index}-r /opt/{REQUIREMENTS}",
            f"COPY . {_INSIDE}/",
            f"RUN regraft inspect {_INSIDE}",
            f"USER {USER}:{USER}",
            f"EXPOSE {port}",
            "HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \\",
            f"    CMD {json.dumps(['python', '-c', _HEALTH.format(port=port)])}",
            f"CMD {json.dumps(serve)}",
        ]
        return "\n".join(lines) + "\n"


def _is_plain_https(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    plain = re.fullmatch(r"[A-Za-z0-9._~:/?&=%+-]+", address) is not None
    return plain and parts.scheme == "https" and bool(parts.hostname) and parts.username is None


def _without_secret(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", address)
