"""Controller side of `llm_lock`: asks registries and the hub, and writes the lock beside the inventory."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# As in llm_plan.py.
_LIBRARY = str(Path(__file__).resolve().parent.parent / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import files
from ansible.module_utils.llm.base.http import Answer, Request, Unreachable, Unresolved
from ansible.module_utils.llm.declare import lock, values
from ansible.module_utils.llm.models import artifacts
from ansible.module_utils.llm.models.hub import HUB, model_commit, model_facts

FILE = "group_vars/all/llm_lock.yml"
TIMEOUT = 30  # seconds for one answer
FACTS = "files/configs"  # where llm_plan looks for what is known of models


class ActionModule(ActionBase):
    """See library/llm_lock.py for the documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `entries`, a line for each; fail when something could not be resolved, after the rest is written."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        self.validate_argument_spec(argument_spec={})
        hosts = list(variables["ansible_play_hosts_all"])
        plans = {h: variables["hostvars"][h].get("llm_plan") for h in hosts}
        if refused := [h for h, found in plans.items() if not found]:
            raise AnsibleActionFail(
                f"the declaration of {', '.join(refused)} is refused (see above); nothing was locked"
            )
        folders = _folders(variables.get("ansible_inventory_sources") or [])
        places = {part: _joined(p["lockable"][part] for p in plans.values()) for part in lock.PARTS}
        whole = set(hosts) == set(variables["groups"]["all"]) and not any(p["named"] for p in plans.values())
        token = next((t for h in hosts if (t := variables["hostvars"][h].get("llm_hub_token"))), "")
        endpoint = next((e for p in plans.values() if (e := p["settings"]["hub_endpoint"])), HUB)
        bundle = next((b for p in plans.values() if (b := p["settings"]["ca_bundle"])), "")

        old = variables.get("llm_lock") or {}
        web = Web(bundle)
        found, failed = _resolved(places, web, str(endpoint), str(token))
        new = lock.merge(old, found, places if whole else None)
        text = lock.render(new)
        described, unread = _described(
            _joined(p["on_hub"] for p in plans.values()), new, folders, web, (str(endpoint), str(token))
        )
        result["entries"] = [*lock.changes(old, new, failed), *unread]
        result["changed"], result["diff"] = False, []
        for path, text in (
            *((f / FILE, text) for f in folders if files.read(f / FILE) or any(new.values())),
            *described,
        ):
            before = files.read(path)
            if before == text:
                continue
            result["changed"] = True
            headers = {"before_header": str(path) if before else "absent", "after_header": str(path)}
            result["diff"].append({**headers, "before": before, "after": text})
            if not self._task.check_mode:
                _write(path, text)
        if failed:
            kept = "the others are locked" if found["images"] or found["models"] else "nothing was locked"
            count = f"{len(failed)} of {len(places['images']) + len(places['models'])}"
            result.update(
                failed=True, msg="\n".join([f"{count} could not be resolved; {kept}.", *_told(failed, places, old)])
            )
        return result


def _joined(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {str(entry): str(place) for part in parts for entry, place in part.items()}


def _resolved(
    places: Mapping[str, Mapping[str, str]], web: Web, endpoint: str, token: str
) -> tuple[dict[str, dict[str, str]], dict[str, Unresolved]]:
    """What the registries and the hub say, and the entries that none of them could say anything of."""
    found: dict[str, dict[str, str]] = {part: {} for part in lock.PARTS}
    failed: dict[str, Unresolved] = {}
    for part, entries in places.items():
        for entry in sorted(entries):
            try:
                if part == "images":
                    found[part][entry] = lock.image_digest(entry, web.ask)
                else:
                    found[part][entry] = model_commit(entry, web.ask, endpoint, token)
            except Unresolved as problem:
                failed[entry] = problem
    return found, failed


def _described(
    models: Mapping[str, str], found: lock.Lock, folders: Iterable[Path], web: Web, hub: tuple[str, str]
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Files with what the plan has to know of each model, and a line for each that could not be read.

    models: name to repo@revision. hub: its address and token. What a file has of the same commit is not asked for again.
    """
    written, unread = [], []
    for name, entry in sorted(models.items()):
        repo, _, revision = entry.partition("@")
        commit = found["models"].get(entry, revision)
        paths = [folder / FACTS / f"{name}.json" for folder in folders]
        if not values.COMMIT.fullmatch(commit) or all(_source(p) == f"{repo}@{commit}" for p in paths):
            continue
        try:
            text = artifacts.facts_text(model_facts(repo, commit, web.ask, *hub))
        except Unresolved as problem:
            unread.append(f"{entry}: its shape could not be read, {problem.message}. {problem.remedy}")
        else:
            written += [(path, text) for path in paths]
    return written, unread


def _source(path: Path) -> Any:
    """The model and commit that a file of facts was read from."""
    try:
        return json.loads(files.read(path) or "{}").get("source")
    except (ValueError, AttributeError):
        return None


def _told(failed: Mapping[str, Unresolved], places: Mapping[str, Mapping[str, str]], old: lock.Lock) -> list[str]:
    where, known = _joined(places.values()), _joined(old.values())
    return [
        f"  - {where[entry]}: {entry}: {problem.message}{', its old entry is kept' if entry in known else ''}. {problem.remedy}"
        for entry, problem in failed.items()
    ]


def _folders(sources: Iterable[str]) -> list[Path]:
    """Folders beside which Ansible looks for group_vars. Fails where a lock would not be read, or would hide what is."""
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if not path.exists():
            message = f"the inventory {source!r} is no file or folder, so no lock can lie beside it. Write it to a file"
            raise AnsibleActionFail(message)
        found.append(path if path.is_dir() else path.parent)
    for folder in found:
        for ending in ("", ".yml", ".yaml", ".json"):
            file = folder / f"group_vars/all{ending}"
            if file.is_file():
                message = (
                    f"{file} is a file, which Ansible no longer reads once there is a folder of that name for the lock"
                )
                remedy = f"Move it to {folder}/group_vars/all/main{ending or '.yml'}, and run again"
                raise AnsibleActionFail(f"{message}. {remedy}")
    return list(dict.fromkeys(found))


def _write(path: Path, text: str) -> None:
    try:
        files.write(path, text, path.stat().st_mode & 0o7777 if path.exists() else 0o644)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}. Make its folder writable, and run again"
        raise AnsibleActionFail(message) from error


class Web:
    """Sends requests by the proxies of the environment, and asks a server no more that did not answer once."""

    def __init__(self, ca_bundle: str) -> None:
        context = ssl.create_default_context()
        try:
            if ca_bundle:
                context.load_verify_locations(ca_bundle)
        except OSError as error:
            message = f"llm_ca_bundle: {ca_bundle} is no CA bundle ({error.strerror or error}). Correct it"
            raise AnsibleActionFail(message) from error
        own = (urllib.request.HTTPSHandler(context=context), _Redirects())
        self.by_proxy = urllib.request.build_opener(*own)
        self.direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), *own)
        self.silent: dict[str, Unreachable] = {}

    def ask(self, request: Request) -> Answer:
        """The answer to a request. Raises Unreachable."""
        server = "{0.scheme}://{0.netloc}".format(urlsplit(request.url))
        if server in self.silent:
            raise self.silent[server]
        opener = self.direct if lock.is_loopback(urlsplit(request.url).netloc) else self.by_proxy
        sent = urllib.request.Request(request.url, headers=dict(request.headers), method=request.method)  # noqa: S310 - http(s)
        try:
            try:
                with opener.open(sent, timeout=TIMEOUT) as answer:
                    return _answer(answer, request.most)
            except urllib.error.HTTPError as error:
                with error:
                    return _answer(error, request.most)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "reason", None) or error
            self.silent[server] = Unreachable(server, str(why) or type(why).__name__)
            raise self.silent[server] from error


def _answer(said: Any, most: int) -> Answer:
    headers = {name.lower(): ", ".join(said.headers.get_all(name)) for name in said.headers}
    return Answer(said.status, headers, said.read(most))


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow as usual, and tell no other server the token."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            following.remove_header("Authorization")
        return following
