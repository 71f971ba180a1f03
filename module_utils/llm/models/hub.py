"""What the hub knows of a model: its commit, what an estimate needs of it, and what a refusal means."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from ansible.module_utils.llm.base.http import LARGEST, Answer, Ask, Request, Unresolved, json_of, trouble
from ansible.module_utils.llm.declare import values
from ansible.module_utils.llm.models import artifacts

HUB = "https://huggingface.co"
REPOSITORY_AND_BRANCH = re.compile(rf"(?P<repo>{values.REPOSITORY})@(?P<branch>{values.BRANCH})")


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


def model_facts(repo: str, commit: str, ask: Ask, endpoint: str = HUB, token: str = "") -> dict[str, Any]:
    """What an estimate of memory needs of a model on the hub (artifacts.remote_facts), with `source`. Raises Unresolved."""
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
