"""The lock: which image a tag, and which commit a branch of a model stood for when `playbooks/lock.yml` asked for them.

Pure but for `ask`, which callers pass in: it sends one `Request` and returns the `Answer`, or raises `Unresolved`.
Registries: https://github.com/opencontainers/distribution-spec/blob/main/spec.md and
https://distribution.github.io/distribution/spec/auth/token/. Hub: GET /api/models/<repo>/revision/<branch>.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from ansible.module_utils.llm.base.http import LATER, Answer, Ask, Request, Unreachable, Unresolved, json_of, trouble
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared

PARTS = ("images", "models")
BRANCH = "main"  # what a hub serves when no revision is named
Lock = Mapping[str, Mapping[str, str]]
"""{images: {reference: digest}, models: {repo@branch: commit}}"""
DOCKER_HUB = "registry-1.docker.io"
# An index first: its digest names the image for every architecture, and docker takes its own from it.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_REFERENCE = re.compile(values.REFERENCE)
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s",]+))')


# ---------------------------------------------------------------------------------------------------------------------
# What of a declaration can be locked, and what a lock makes of it.


def pinned(raw: Mapping[str, Any], lock: Lock) -> dict[str, Any]:
    """A well-formed declaration (see parse.parse) with what the lock says for tags and branches."""
    images = {n: {**e, "sources": _pinned_image(e["sources"], lock)} for n, e in raw["images"].items()}
    models = {n: {**e, **_pinned_model(e, lock)} for n, e in raw["models"].items()}
    return {**raw, "images": images, "models": models}


def _pinned_image(sources: Iterable[Mapping[str, Any]], lock: Lock) -> list[Mapping[str, Any]]:
    digests = lock.get("images", {})
    return [{**s, "pull": f"{s['pull']}@{digests[s['pull']]}"} if s.get("pull") in digests else s for s in sources]


def _pinned_model(entry: Mapping[str, Any], lock: Lock) -> dict[str, Any]:
    """Sources of a model with the locked commit of each; the first one from a hub gives the model its revision, and its folder."""
    revision, commits = entry.get("revision", BRANCH), lock.get("models", {})
    sources, first = [], ""
    for source in entry["sources"]:
        if "hub" in source:
            branch = source.get("revision", revision)
            source = {**source, "revision": commits.get(f"{source['hub']}@{branch}", branch)}
            first = first or source["revision"]
        sources.append(source)
    locked = values.COMMIT.fullmatch(first)
    return {"sources": sources, "revision": first} if locked else {"sources": sources}


def wanted(declared: Declared, images: Iterable[str], models: Iterable[str]) -> dict[str, dict[str, str]]:
    """Tags and branches that these images and models come from, each with the dotted key that names it.

    {images: {reference: key}, models: {repo@branch: key}}. With the images that others are built or converted with.
    """
    tags: dict[str, str] = {}
    branches: dict[str, str] = {}
    more: list[str] = []
    for name in models:
        model = declared.models[name]
        for position, source in enumerate(model.sources):
            more += [source["convert_with"]] if "convert_with" in source else []
            branch = source.get("revision", model.revision)
            if "hub" in source and not values.COMMIT.fullmatch(branch):
                branches.setdefault(f"{source['hub']}@{branch}", f"llm_models.{name}.sources.{position}.hub")
    seen: set[str] = set()
    todo = [*images, *more]
    while todo:
        name = todo.pop(0)
        if name in seen:
            continue
        seen.add(name)
        for position, source in enumerate(declared.images[name].sources):
            todo += [source["build"]["base"]] if "build" in source else []
            if "pull" in source and "@" not in source["pull"]:
                tags.setdefault(source["pull"], f"llm_images.{name}.sources.{position}.pull")
    return {"images": tags, "models": branches}


def on_hub(declared: Declared, models: Iterable[str]) -> dict[str, str]:
    """`repo@revision` of each model that has a source on a hub: that of its first such source."""
    found = {}
    for name in models:
        model = declared.models[name]
        source = next((s for s in model.sources if "hub" in s), None)
        if source:
            found[name] = f"{source['hub']}@{source.get('revision', model.revision)}"
    return found


def findings(declared: Declared, used: Mapping[str, Mapping[str, str]], lock: Lock) -> list[Finding]:
    """Where a lock and a declaration differ. No findings without a lock: tags and branches are then followed.

    declared: as the catalogs have it. used: what services of the host come from, as `wanted` gives it.
    """
    found = []
    known = wanted(declared, declared.images, declared.models)
    for part in PARTS if any(lock.values()) else ():
        for entry in sorted(set(used[part]) - set(lock.get(part, {}))):
            message, remedy = f"`{entry}` is not in the lock, and can change", "Run playbooks/lock.yml"
            found.append(Finding("unlocked", "warn", used[part][entry], message, remedy))
        for entry in sorted(set(lock.get(part, {})) - set(known[part])):
            message, remedy = f"locks `{entry}`, which no catalog names", "playbooks/lock.yml drops it"
            found.append(Finding("lock-stale", "info", f"llm_lock.{part}", message, remedy))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Registries.


@dataclasses.dataclass(frozen=True)
class Reference:
    """Where a tag is asked for. `bases`: URLs of the registry, tried in order."""

    bases: tuple[str, ...]
    repository: str
    tag: str


def parse_reference(text: str) -> Reference:
    """The parts of `[host/]repository[:tag]`, as docker reads them. Raises Unresolved for what is none."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise Unresolved("is no image reference", "Write [host/]repository:tag")
    host, path, tag = match["host"], match["path"], match["tag"] or "latest"
    if host and not re.search(r"[.:]|^localhost$", host):  # the first part of a repository on Docker's hub
        host, path = None, f"{host}/{path}"
    if host in (None, "docker.io", "index.docker.io"):
        return Reference((f"https://{DOCKER_HUB}",), path if "/" in path else f"library/{path}", tag)
    # Docker, too, takes a registry on the loopback without TLS.
    return Reference((f"https://{host}", f"http://{host}") if is_loopback(host) else (f"https://{host}",), path, tag)


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is this machine by its name or address."""
    return bool(re.match(r"localhost(:|$)|127\.\d+\.\d+\.\d+(:|$)|\[::1\]", host))


def image_digest(text: str, ask: Ask) -> str:
    """The digest that a registry has for a tag now. Raises Unresolved."""
    reference = parse_reference(text)
    for base in reference.bases[:-1]:
        try:
            return _digest_at(base, reference, ask)
        except Unreachable:
            continue
    return _digest_at(reference.bases[-1], reference, ask)


def _digest_at(base: str, reference: Reference, ask: Ask) -> str:
    url = f"{base}/v2/{reference.repository}/manifests/{reference.tag}"
    headers = {"Accept": ", ".join(MANIFESTS)}
    answer = ask(Request("HEAD", url, headers))
    if answer.status == 401:
        wanted = token_request(answer.headers.get("www-authenticate", ""), base, reference.repository)
        headers["Authorization"] = f"Bearer {read_token(ask(wanted))}"
        answer = ask(Request("HEAD", url, headers))
    if answer.status == 200 and "docker-content-digest" not in answer.headers:  # it is optional
        answer = ask(Request("GET", url, headers))
        if answer.status == 200:
            return f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
    if answer.status != 200:
        raise _refused_by_registry(answer.status)
    digest = answer.headers["docker-content-digest"]
    if not values.DIGEST.fullmatch(digest):
        raise Unresolved(f"the registry names the digest {digest[:80]!r}, which is none", LATER)
    return digest


def token_request(challenge: str, base: str, repository: str) -> Request:
    """The request for a token that a registry's challenge (header WWW-Authenticate) asks for. Raises Unresolved.

    Nothing is sent along, so what comes back opens only what everybody may read.
    """
    said: dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(re.split(r"\bbearer\s+", challenge, maxsplit=1, flags=re.I)[-1]):
        said.setdefault(name.lower(), quoted or bare)  # another challenge can follow
    realm = urlsplit(said.get("realm", ""))
    if (
        not re.search(r"\bbearer\s", challenge, re.I)
        or not realm.netloc
        or realm.scheme not in ("https", urlsplit(base).scheme)
    ):
        raise _refused_by_registry(401)
    query: dict[str, str] = {k: said[k] for k in ("service", "scope") if k in said}
    query.setdefault("scope", f"repository:{repository}:pull")
    joined = "&".join(q for q in (realm.query, urlencode(query)) if q)
    return Request("GET", realm._replace(query=joined, fragment="").geturl())


def read_token(answer: Answer) -> str:
    """The token in the answer of a token server. Raises Unresolved."""
    if answer.status != 200:
        raise _refused_by_registry(answer.status)
    said = json_of(answer)
    token = said.get("token") or said.get("access_token")
    if not isinstance(token, str) or not token:
        raise Unresolved("the registry's token server sends no token", LATER)
    return token


def _refused_by_registry(status: int) -> Unresolved:
    if status in (401, 403):
        remedy = (
            "Correct it. Where a login is needed, write NAME:TAG@DIGEST in the catalog yourself; "
            "`docker buildx imagetools inspect NAME:TAG`, logged in, prints the digest"
        )
        return Unresolved(f"does not exist there, or needs a login, which is not used here ({status})", remedy)
    if status == 404:
        return Unresolved("the registry has no such tag (404)", "Correct it, or remove the source from the catalog")
    return trouble("the registry", status)


# ---------------------------------------------------------------------------------------------------------------------
# The file.

HEADER = """\
---
# What the tags and branches of the catalogs stood for when this was made, with
#   ansible-playbook -i <this inventory> playbooks/lock.yml
# Commit it. The same command moves it; edits by hand are lost then. Remove a line, or the file, to follow the tag again.
"""


def merge(old: Lock, found: Lock, declared: Mapping[str, Iterable[str]] | None) -> dict[str, dict[str, str]]:
    """`found` over `old`; with `declared` ({images, models}, names only) entries that it lacks are dropped."""
    merged = {part: {**(old.get(part) or {}), **(found.get(part) or {})} for part in PARTS}
    if declared is None:
        return merged
    return {part: {k: v for k, v in merged[part].items() if k in set(declared[part])} for part in PARTS}


def render(lock: Lock) -> str:
    """The lock as a file of variables; everything is quoted, as a commit can look like a number."""
    lines = [HEADER + "llm_lock:"]
    for part in PARTS:
        entries = lock.get(part) or {}
        lines.append(f"  {part}:" if entries else f"  {part}: {{}}")
        lines += [f"    {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
    return "\n".join(lines) + "\n"


def changes(old: Lock, new: Lock, unresolved: Iterable[str]) -> list[str]:
    """A line for each entry: new, moved, dropped, kept without an answer, or as it was."""
    silent = set(unresolved)
    lines = []
    for part in PARTS:
        before, after = old.get(part) or {}, new.get(part) or {}
        for key in sorted({*before, *after}):
            was, now = before.get(key, ""), after.get(key, "")
            if not now:
                lines.append(f"{key}: dropped, no host declares it")
            elif not was:
                lines.append(f"{key}: locked to {now}")
            elif was != now:
                lines.append(f"{key}: moved from {was} to {now}")
            else:
                lines.append(f"{key}: {'kept' if key in silent else 'unchanged'}")
    return lines
