"""What the hub knows of a model: its commit, its files, what an estimate needs of it, and what a refusal means."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible.module_utils.llm.base.http import LARGEST, Answer, Ask, Request, Unreachable, Unresolved, json_of, trouble
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.models import artifacts, store
from ansible.module_utils.llm.models.store import FetchFailed

HUB = "https://huggingface.co"
REPOSITORY_AND_BRANCH = re.compile(rf"(?P<repo>{values.REPOSITORY})@(?P<branch>{values.BRANCH})")
ASK_TIMEOUT = 10.0  # seconds for a hub's answer to a question
# Left alone, hf_xet tries for more than five minutes to reach its storage, which has other addresses than the hub.
XET = {
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "30s",
}


def model_commit(text: str, ask: Ask, endpoint: str = HUB, token: str = "") -> str:
    """The commit that the hub has for `repo@branch` now. Raises Unresolved."""
    if not REPOSITORY_AND_BRANCH.fullmatch(text):
        raise Unresolved("is no repository of a hub", "Write owner/name, and a branch, tag or commit as revision")
    repo, _, branch = text.partition("@")
    endpoint = endpoint.rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = ask(Request("GET", f"{endpoint}/api/models/{repo}/revision/{quote(branch, safe='')}", headers))
    if answer.status != 200:
        raise refused_by_hub(answer, f"{endpoint}/{repo}", bool(token))
    commit = json_of(answer).get("sha")
    if not isinstance(commit, str) or not values.COMMIT.fullmatch(commit):
        remedy = f"Check that {endpoint} (llm_hub_endpoint) is a hub, and run it again"
        raise Unresolved("the hub's answer names no commit", remedy)
    return commit


def model_facts(repo: str, commit: str, ask: Ask, endpoint: str = HUB, token: str = "") -> artifacts.HubFacts:
    """What an estimate of memory needs of a model on the hub. Raises Unresolved."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    folder = f"{endpoint.rstrip('/')}/{repo}/resolve/{commit}"

    def read(name: str, part: tuple[int, int] | None) -> bytes:
        wanted = {"Range": f"bytes={part[0]}-{part[1]}"} if part else {}
        most = part[1] - part[0] + 1 if part else LARGEST
        answer = ask(Request("GET", f"{folder}/{quote(name)}", {**headers, **wanted}, most))
        if answer.status != (206 if part else 200):
            raise artifacts.Broken(f"{name}: the hub answers {'ranges ' if part else ''}with {answer.status}")
        return answer.body

    try:
        return {"source": f"{repo}@{commit}", **artifacts.remote_facts(read)}
    except artifacts.Broken as problem:
        raise Unresolved(str(problem), "Its memory is estimated from what else is known of it") from problem


def refused_by_hub(answer: Answer, page: str, token: bool) -> Unresolved:
    """What an answer other than 200 means. page: the repository's, where terms are accepted. token: one was sent."""
    code = answer.headers.get("x-error-code", "")
    if code == "RevisionNotFound":
        return Unresolved("the hub has no such branch or tag", "Correct `revision`")
    if answer.status == 401 and token and code != "GatedRepo":
        return Unresolved("the hub refuses the token (401)", "Correct llm_hub_token")
    if answer.status == 401 and code != "GatedRepo":
        remedy = "Correct it, or set llm_hub_token to the token of an account that may read it"
        return Unresolved("does not exist on the hub, or is open only to those who log in (401)", remedy)
    if answer.status in (401, 403):
        remedy = f"Accept its terms at {page}, and set llm_hub_token to a token of the same account that may read it"
        return Unresolved(f"is gated ({answer.status})", remedy)
    if answer.status == 404:
        return Unresolved("is not on the hub (404)", "Correct it, or remove the source from the catalog")
    return trouble("the hub", answer.status)


def library(home: Path) -> Any:
    """huggingface_hub, with `home` for what it keeps while it works. Raises FetchFailed where it is not installed."""
    # Read when the library is imported: no saved token of the user, no bars, nothing in the user's home.
    for switch in ("IMPLICIT_TOKEN", "PROGRESS_BARS", "TELEMETRY"):
        os.environ[f"HF_HUB_DISABLE_{switch}"] = "1"
    os.environ.update(HF_HUB_VERBOSITY="critical", HF_HOME=str(home), **XET)
    try:
        import huggingface_hub
    except ImportError as error:
        raise FetchFailed(f"huggingface_hub is not in {sys.executable} (role host_tools installs it)") from error
    return huggingface_hub


class Hub:
    """One repository of a hub at one revision, through huggingface_hub."""

    def __init__(self, repo: str, revision: str, endpoint: str, token: str, home: Path) -> None:
        """token: "" without one. home: see library, which may fail."""
        self.hub = library(home)
        self.repo, self.revision, self.endpoint, self.token = repo, revision, endpoint, token
        self.fast = True  # until hf_xet has failed once

    def listing(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """Commit that the revision stands for, and its files: {path: {size, sha256, blob}}. Raises FetchFailed."""
        try:
            api = self.hub.HfApi(endpoint=self.endpoint, token=self.token or False)
            info = api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=ASK_TIMEOUT)
        except Exception as error:  # the library raises many kinds, each means that this source fails
            raise self._failed(error) from error
        if not values.COMMIT.fullmatch(info.sha or ""):
            raise FetchFailed(f"{self.endpoint} names no commit. Check that llm_hub_endpoint is a hub")
        listed = {}
        for file in info.siblings or ():
            if file.rfilename.startswith("/") or ".." in Path(file.rfilename).parts:
                raise FetchFailed(f"the hub lists a file {file.rfilename!r}, outside of the repository")
            stored = file.lfs
            listed[file.rfilename] = {
                "size": file.size,
                "sha256": stored.sha256 if stored else None,
                "blob": None if stored else file.blob_id,
            }
        self.commit = info.sha
        return info.sha, listed

    def download(self, name: str, entry: dict[str, Any], part: Path, final: Path) -> str:
        """Fetch one file to `part`, going on where it ends; verify it, and give it its name. Returns its SHA-256."""
        for _ in range(2):
            try:
                self._transfer(name, entry, part)
            except Exception as error:  # as above
                raise self._failed(error, name) from error
            if sha256 := store.verified(part, entry):
                final.parent.mkdir(parents=True, exist_ok=True)
                part.replace(final)
                return sha256
            part.unlink()
        raise FetchFailed(
            f"{name}: the bytes that arrive are not those that the hub lists, twice. Try a mirror, or later"
        )

    def _transfer(self, name: str, entry: dict[str, Any], part: Path) -> None:
        # http_get and xet_get are not public API. With them a transfer goes on where it stopped, and a file is verified before it
        # gets its name; hf_hub_download does not verify. The version is pinned in roles/host_tools/files/requirements.txt.
        from huggingface_hub import file_download
        from huggingface_hub.utils import build_hf_headers

        part.parent.mkdir(parents=True, exist_ok=True)
        headers = build_hf_headers(token=self.token or False)
        # By the commit that was listed: a branch may move between two files.
        url = file_download.hf_hub_url(self.repo, name, revision=self.commit, endpoint=self.endpoint)
        found = file_download.get_hf_file_metadata(
            url, token=self.token or False, endpoint=self.endpoint, timeout=ASK_TIMEOUT
        )
        begun = part.stat().st_size if part.is_file() else 0
        if found.xet_file_data is not None and not begun and self.fast and file_download.is_xet_available():
            # Faster, and with its own retries; but it begins anew after an interruption, for it writes in any order: until it has
            # ended, its file has holes, and must not be taken for the beginning of one.
            holes = part.parent.with_name(store.HOLES) / part.name
            holes.parent.mkdir(exist_ok=True)
            try:
                file_download.xet_get(
                    incomplete_path=holes,
                    xet_file_data=found.xet_file_data,
                    headers=headers,
                    expected_size=entry["size"],
                )
                holes.replace(part)
                return
            # The library raises many kinds. A network that lets the hub through may not let its storage.
            except Exception:  # noqa: BLE001
                self.fast = False
                holes.unlink(missing_ok=True)
        if urlsplit(found.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # a signed address of somebody else's
        with part.open("r+b" if begun else "wb") as stream:
            stream.seek(begun)
            file_download.http_get(
                found.location, stream, resume_size=begun, headers=headers, expected_size=entry["size"]
            )

    def _failed(self, error: Exception, name: str = "") -> FetchFailed:
        """What the library's error means for who runs the playbook. Its own text may show signed addresses."""
        what = f"{name}: " if name else ""
        answer = getattr(error, "response", None)
        if answer is not None:
            headers = {k.lower(): v for k, v in answer.headers.items()}
            refused = refused_by_hub(
                Answer(answer.status_code, headers), f"{self.endpoint}/{self.repo}", bool(self.token)
            )
            return FetchFailed(f"{what}{refused.message}. {refused.remedy}")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise error
        if name:
            return FetchFailed(
                f"{what}the transfer broke off ({type(error).__name__}). Run it again: it goes on where it stopped"
            )
        why = re.sub(r"https?://\S+", "(address)", (str(error).strip().splitlines() or [""])[0])[:200]
        away = Unreachable(urlsplit(self.endpoint).netloc or self.endpoint, f"{type(error).__name__}: {why}")
        return FetchFailed(f"{away.message}. {away.remedy}")
