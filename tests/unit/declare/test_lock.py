"""The lock: what can be locked, what registries and the hub answer, what becomes of the file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.llm.base.http import Answer, Request, Unreachable, Unresolved
from ansible.module_utils.llm.declare import lock, parse
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.models.hub import HUB, model_commit, model_facts
from ansible.module_utils.llm.plan import compose

from tests import catalogs

ONE, TWO = (f"sha256:{c * 64}" for c in "12")
A, B = "a" * 40, "b" * 40
INDEX = "application/vnd.oci.image.index.v1+json"
TOKEN_SERVER = "https://auth.example.org/token"
CHALLENGE = f'Bearer realm="{TOKEN_SERVER}",service="registry.example.org",scope="repository:a/b:pull"'


class Web:
    """Answers from a table, as registries and the hub document them; keeps what was asked. None: nobody answers."""

    def __init__(self, answers: Mapping[str, Answer | list[Answer] | None]) -> None:
        self.answers = {k: list(v) if isinstance(v, list) else [v] for k, v in answers.items()}
        self.asked: list[Request] = []

    def ask(self, request: Request) -> Answer:
        self.asked.append(request)
        key = next(k for k in self.answers if f"{request.method} {request.url}".startswith(k))
        answers = self.answers[key]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise Unreachable(request.url, "no route to host")
        return answer


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(Unresolved) as caught:
        call(*arguments)
    return f"{caught.value.message}. {caught.value.remedy}"


# -- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "base", "repository", "tag"),
    [
        ("debian", "https://registry-1.docker.io", "library/debian", "latest"),
        ("docker.io/library/haproxy:3.4-alpine", "https://registry-1.docker.io", "library/haproxy", "3.4-alpine"),
        ("vllm/vllm-openai:v0.33.0", "https://registry-1.docker.io", "vllm/vllm-openai", "v0.33.0"),
        ("public.ecr.aws/q9t5s3a7/x:v1", "https://public.ecr.aws", "q9t5s3a7/x", "v1"),
        ("registry.example.org:5000/a/b", "https://registry.example.org:5000", "a/b", "latest"),
        ("ghcr.io/a/b_c-d:1", "https://ghcr.io", "a/b_c-d", "1"),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, base: str, repository: str, tag: str) -> None:
    assert lock.parse_reference(text) == lock.Reference((base,), repository, tag)


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "localhost"])
def test_only_the_loopback_may_do_without_tls(host: str) -> None:
    assert lock.parse_reference(f"{host}/a:1").bases == (f"https://{host}", f"http://{host}")
    assert not lock.is_loopback("127.example.org") and not lock.is_loopback("localhost.example.org:5000")


@pytest.mark.parametrize("text", ["", "A/B:1", "a b", "a:", "https://ghcr.io/a", "a@sha256:1"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    assert "is no image reference" in refused(lock.parse_reference, text)


# -- registries -------------------------------------------------------------------------------------------------------

HEAD = "HEAD https://registry.example.org/v2/a/b/manifests/1"
GET = HEAD.replace("HEAD", "GET")
IMAGE = "registry.example.org/a/b:1"
FOUND = Answer(200, {"docker-content-digest": ONE, "content-type": INDEX})
ASKS = Answer(401, {"www-authenticate": CHALLENGE})


def test_an_open_registry_is_asked_once_for_whole_images() -> None:
    web = Web({HEAD: FOUND})
    assert lock.image_digest(IMAGE, web.ask) == ONE
    (asked,) = web.asked
    assert asked.headers["Accept"].split(", ")[0] == INDEX and "manifest.list.v2" in asked.headers["Accept"]


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_is_fetched_where_the_registry_says(name: str) -> None:
    web = Web({HEAD: [ASKS, FOUND], f"GET {TOKEN_SERVER}": Answer(200, {}, json.dumps({name: "t0ken"}).encode())})
    assert lock.image_digest(IMAGE, web.ask) == ONE
    _, asked, again = web.asked
    assert asked.url == f"{TOKEN_SERVER}?service=registry.example.org&scope=repository%3Aa%2Fb%3Apull"
    assert not asked.headers and again.headers["Authorization"] == "Bearer t0ken"


def test_without_the_header_the_digest_is_that_of_the_manifest() -> None:
    web = Web({HEAD: Answer(200), GET: Answer(200, {}, b"{}")})
    assert lock.image_digest(IMAGE, web.ask) == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


@pytest.mark.parametrize(
    ("challenge", "asked"),
    [
        (CHALLENGE, f"{TOKEN_SERVER}?service=registry.example.org&scope=repository%3Aa%2Fb%3Apull"),
        (f'bearer realm="{TOKEN_SERVER}?x=1"', f"{TOKEN_SERVER}?x=1&scope=repository%3Aa%2Fb%3Apull"),
        (f'Basic realm="r", Bearer realm="{TOKEN_SERVER}"', f"{TOKEN_SERVER}?scope=repository%3Aa%2Fb%3Apull"),
    ],
)
def test_challenges(challenge: str, asked: str) -> None:
    assert lock.token_request(challenge, "https://registry.example.org", "a/b").url == asked


@pytest.mark.parametrize(
    "challenge", ["", 'Basic realm="r"', "Bearer", 'Bearer realm="file:///etc/passwd"', 'Bearer realm="http://x/token"']
)
def test_challenges_that_lead_to_no_token(challenge: str) -> None:
    assert "needs a login" in refused(lock.token_request, challenge, "https://registry.example.org", "a/b")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {HEAD: None},
            "cannot be reached: no route to host. Check the network, the proxy (https_proxy) and llm_ca_bundle",
        ),
        ({HEAD: Answer(404)}, "the registry has no such tag (404). Correct it"),
        (
            {HEAD: Answer(403)},
            "needs a login, which is not used here (403). Correct it. Where a login is needed, write",
        ),
        ({HEAD: ASKS, f"GET {TOKEN_SERVER}": Answer(200, {}, b'{"token": "t"}')}, "needs a login"),
        ({HEAD: ASKS, f"GET {TOKEN_SERVER}": Answer(403)}, "needs a login"),
        ({HEAD: ASKS, f"GET {TOKEN_SERVER}": Answer(200, {}, b"<html>")}, "token server sends no token. Run it again"),
        ({HEAD: Answer(429)}, "limits requests, and this address has sent too many (429). Run it again later"),
        ({HEAD: Answer(502)}, "the registry answers with status 502. Run it again later"),
        ({HEAD: Answer(200, {"docker-content-digest": "sha256:1"})}, "names the digest 'sha256:1', which is none"),
    ],
)
def test_what_a_registry_refuses_is_said_with_a_remedy(answers: dict[str, Answer | None], words: str) -> None:
    assert words in refused(lock.image_digest, IMAGE, Web(answers).ask)


def test_a_registry_on_the_loopback_is_tried_without_tls_last() -> None:
    web = Web({"HEAD https://localhost:5000": None, "HEAD http://localhost:5000": FOUND})
    assert lock.image_digest("localhost:5000/a:1", web.ask) == ONE
    assert [r.url.partition(":")[0] for r in web.asked] == ["https", "http"]


# -- the hub ----------------------------------------------------------------------------------------------------------

MODEL = "GET https://huggingface.co/api/models/acme/tiny/revision/main"


def test_the_hub_names_the_commit_of_a_branch() -> None:
    web = Web({MODEL: Answer(200, {}, json.dumps({"id": "acme/tiny", "sha": A}).encode())})
    assert model_commit("acme/tiny@main", web.ask) == A
    assert not web.asked[0].headers


CONFIG = json.dumps({"num_hidden_layers": 1}).encode()
TENSORS = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
SHARD = len(TENSORS).to_bytes(8, "little") + TENSORS
FOLDER = f"GET {HUB}/acme/tiny/resolve/{A}"


def test_the_hub_tells_the_shape_of_a_model_in_pieces() -> None:
    headers = [Answer(206, {}, SHARD[:8]), Answer(206, {}, SHARD[8:])]
    answers = {f"{FOLDER}/config.json": Answer(200, {}, CONFIG), f"{FOLDER}/model.safetensors.index.json": Answer(404)}
    web = Web({**answers, f"{FOLDER}/model.safetensors": headers})
    found = model_facts("acme/tiny", A, web.ask, token="hf_x")
    assert found["source"] == f"acme/tiny@{A}" and found["bytes"] == len(SHARD) + 8
    assert found["tensors"] == [["lm_head.weight", "BF16", [2, 2], 1]]
    pieces = [(r.headers.get("Range"), r.most) for r in web.asked[2:]]
    assert pieces == [("bytes=0-7", 8), (f"bytes=8-{len(SHARD) - 1}", len(TENSORS))]
    assert all(r.headers["Authorization"] == "Bearer hf_x" for r in web.asked)


@pytest.mark.parametrize(
    ("config", "shard", "words"),
    [
        (Answer(404), Answer(404), "config.json: the hub answers with 404"),
        (Answer(200, {}, b"<html>"), Answer(404), "config.json or the index of the weights is unreadable"),
        (Answer(200, {}, CONFIG), Answer(200, {}, SHARD[:8]), "model.safetensors: the hub answers ranges with 200"),
        (Answer(200, {}, CONFIG), Answer(206, {}, b"version "), "is a Git LFS pointer"),
        (Answer(200, {}, CONFIG), None, "cannot be reached"),
    ],
)
def test_a_shape_that_cannot_be_read_is_said(config: Answer, shard: Answer | None, words: str) -> None:
    answers = {f"{FOLDER}/config.json": config, f"{FOLDER}/model.safetensors.index.json": Answer(404)}
    said = refused(model_facts, "acme/tiny", A, Web({**answers, f"{FOLDER}/model.safetensors": shard}).ask)
    assert words in said


def test_models_on_a_hub_are_known_by_their_first_source_there() -> None:
    raw = catalogs.raw("demo")
    raw["models"]["own"] = {"revision": "v1", "sources": [{"path": "/x"}, {"hub": "a/b"}, {"hub": "c/d"}]}
    raw["models"]["local"] = {"sources": [{"path": "/x"}]}
    declared, _ = parse.parse(raw)
    assert declared is not None and lock.on_hub(declared, ["own", "local"]) == {"own": "a/b@v1"}


def test_another_hub_and_a_branch_with_a_slash() -> None:
    web = Web(
        {"GET http://hub/api/models/acme/tiny/revision/refs%2Fpr%2F1": Answer(200, {}, f'{{"sha":"{A}"}}'.encode())}
    )
    assert model_commit("acme/tiny@refs/pr/1", web.ask, "http://hub/", "hf_x") == A
    assert web.asked[0].headers == {"Authorization": "Bearer hf_x"}


@pytest.mark.parametrize(
    ("answer", "token", "words"),
    [
        (None, "", "cannot be reached"),
        (Answer(404, {"x-error-code": "RevisionNotFound"}), "", "has no such branch or tag. Correct `revision`"),
        (Answer(404, {"x-error-code": "RepoNotFound"}), "hf_x", "is not on the hub (404). Correct it, or remove"),
        (Answer(401, {"x-error-code": "RepoNotFound"}), "", "does not exist on the hub, or is open only to those who"),
        (Answer(401), "hf_x", "refuses the token (401). Correct llm_hub_token"),
        (
            Answer(401, {"x-error-code": "GatedRepo"}),
            "",
            "is gated (401). Accept its terms at https://huggingface.co/acme",
        ),
        (Answer(403, {"x-error-code": "GatedRepo"}), "hf_x", "is gated (403). Accept its terms at"),
        (Answer(500), "", "the hub answers with status 500"),
        (Answer(200, {}, b"<html>"), "", "the hub's answer names no commit. Check that"),
        (Answer(200, {}, b'{"sha": "main"}'), "", "the hub's answer names no commit"),
    ],
)
def test_what_the_hub_refuses_is_said_with_a_remedy(answer: Answer | None, token: str, words: str) -> None:
    said = refused(model_commit, "acme/tiny@main", Web({MODEL: answer}).ask, HUB, token)
    assert words in said and (not token or token not in said)


# -- what a lock makes of a declaration -------------------------------------------------------------------------------


def raw(**changes: Any) -> dict[str, Any]:
    """One service with an image that is built on another one, and a model from two hubs' repositories and a package."""
    found: dict[str, Any] = {
        "images": {
            "base": {"sources": [{"pull": "docker.io/library/debian:12"}]},
            "engine": {
                "sources": [{"pull": "q.example/e:1"}, {"pull": f"q.example/e@{ONE}"}, {"build": {"base": "base"}}]
            },
            "other": {"sources": [{"pull": "q.example/other:1"}]},
        },
        "models": {
            "m": {
                "sources": [
                    {"hub": "acme/tiny"},
                    {"hub": "mirror/tiny", "revision": "v2"},
                    {"package": "p==1", "sha256": "0" * 64, "gguf": "g", "convert_with": "other"},
                ]
            }
        },
        "services": {"s": {"image": "engine", "model": "m", "port": 5000, "gpus": []}},
        "host_services": ["s"],
        "settings": {"accelerator": "cpu"},
    }
    return {**found, **changes}


def declared(**changes: Any) -> Declared:
    found, findings = parse.parse(raw(**changes))
    assert found, [f.text() for f in findings]
    return found


LOCK = {"images": {"q.example/e:1": TWO}, "models": {"acme/tiny@main": A, "mirror/tiny@v2": B}}
WANTED = {
    "images": {
        "q.example/e:1": "llm_images.engine.sources.0.pull",
        "q.example/other:1": "llm_images.other.sources.0.pull",
        "docker.io/library/debian:12": "llm_images.base.sources.0.pull",
    },
    "models": {
        "acme/tiny@main": "llm_models.m.sources.0.hub",
        "mirror/tiny@v2": "llm_models.m.sources.1.hub",
    },
}


def test_bases_and_converters_are_wanted_too_and_digests_are_not() -> None:
    assert lock.wanted(declared(), ["engine"], ["m"]) == WANTED
    assert lock.wanted(declared(), ["base"], []) == {
        "images": {"docker.io/library/debian:12": WANTED["images"]["docker.io/library/debian:12"]},
        "models": {},
    }


def test_a_model_at_a_commit_needs_no_lock() -> None:
    models = {"m": {"revision": A, "sources": [{"hub": "acme/tiny"}, {"hub": "acme/tiny", "revision": "main"}]}}
    assert list(lock.wanted(declared(models=models), [], ["m"])["models"]) == ["acme/tiny@main"]


def test_a_lock_names_digests_and_commits() -> None:
    found, findings = parse.parse(lock.pinned(raw(), LOCK))
    assert found and not findings
    assert [s.get("pull") for s in found.images["engine"].sources] == [
        f"q.example/e:1@{TWO}",
        f"q.example/e@{ONE}",
        None,
    ]
    assert found.images["other"].sources == declared().images["other"].sources
    model = found.models["m"]
    assert [s.get("revision") for s in model.sources] == [A, B, None]
    assert compose.model_dir(found.settings, model).endswith(f"/m/{A}")
    assert compose.image_ref(found.images["engine"]) != compose.image_ref(declared().images["engine"])


def test_an_image_that_checks_its_base_follows_the_lock_of_the_base() -> None:
    build = {"base": "base", "require": ["transformers>=5"]}
    images = {**raw()["images"], "engine": {"sources": [{"build": build}]}}
    names = set()
    for digest in (ONE, TWO):
        found, findings = parse.parse(
            lock.pinned(raw(images=images), {"images": {"docker.io/library/debian:12": digest}})
        )
        assert found, findings
        names.add(compose.image_ref(found.images["engine"]))
    assert len(names) == 2


def test_only_the_first_hub_names_the_folder() -> None:
    """Else files of the unlocked one would lie in a folder with the other's commit, and stay when that one moves."""
    found, _ = parse.parse(lock.pinned(raw(), {"models": {"mirror/tiny@v2": B}}))
    assert found and found.models["m"].revision == "main"
    assert [s.get("revision") for s in found.models["m"].sources] == ["main", B, None]


@pytest.mark.parametrize("empty", [{}, {"images": {}, "models": {}}])
def test_without_a_lock_nothing_changes_and_nothing_is_said(empty: dict[str, Any]) -> None:
    found, _ = parse.parse(lock.pinned(raw(), empty))
    assert found and found.images == declared().images and found.models["m"].revision == "main"
    assert lock.findings(declared(), WANTED, empty) == []


def test_the_projects_catalogs_can_be_locked() -> None:
    for inventory in catalogs.HOSTS:
        known = lock.wanted(
            catalogs.declared(inventory), catalogs.raw(inventory)["images"], catalogs.raw(inventory)["models"]
        )
        full = {"images": dict.fromkeys(known["images"], ONE), "models": dict.fromkeys(known["models"], A)}
        for reference in known["images"]:
            lock.parse_reference(reference)
        found, findings = parse.parse({**lock.pinned(catalogs.raw(inventory), full), "lock": full})
        assert found and not [f for f in findings if f.severity == "error"]
        assert lock.wanted(found, found.images, found.models) == {"images": {}, "models": {}}


def test_where_lock_and_declaration_have_parted_is_said() -> None:
    known = {"images": {"q.example/e:1": TWO, "q.example/gone:1": ONE}, "models": dict.fromkeys(WANTED["models"], A)}
    found = {(f.id, f.severity, f.key, f.message.split("`")[1]) for f in lock.findings(declared(), WANTED, known)}
    assert found == {
        ("unlocked", "warn", "llm_images.other.sources.0.pull", "q.example/other:1"),
        ("unlocked", "warn", "llm_images.base.sources.0.pull", "docker.io/library/debian:12"),
        ("lock-stale", "info", "llm_lock.images", "q.example/gone:1"),
    }


@pytest.mark.parametrize(
    ("written", "key", "words"),
    [
        ([], "llm_lock", "must be a mapping"),
        ({"image": {}}, "llm_lock.image", "is not a known key"),
        ({"images": None}, "llm_lock.images", "must be a mapping"),
        ({"images": {"a:1": "sha256:1"}}, "llm_lock.images", "has `a:1`, which must be sha256: and 64 hex digits"),
        ({"images": {f"a@{ONE}": ONE}}, "llm_lock.images", "where a reference without a digest is expected"),
        ({"models": {"a/b": A}}, "llm_lock.models", "where a repository and a branch"),
        (
            {"models": {"a/b@main": int("1" * 40)}},
            "llm_lock.models",
            "has `a/b@main`, which must be 40 hex digits, quoted",
        ),
    ],
)
def test_a_malformed_lock_is_refused(written: Any, key: str, words: str) -> None:
    found, findings = parse.parse(raw(lock=written))
    assert found is None and [f.key for f in findings] == [key]
    assert words in findings[0].message and "remove the lock and run playbooks/lock.yml" in findings[0].remedy


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_sorted_quoted_and_read_back() -> None:
    text = lock.render({"images": {"b:1": ONE, "a:1": TWO}, "models": {"x/y@main": "1" * 40}})
    assert yaml.safe_load(text) == {"llm_lock": {"images": {"a:1": TWO, "b:1": ONE}, "models": {"x/y@main": "1" * 40}}}
    assert text.index("a:1") < text.index("b:1")
    assert yaml.safe_load(lock.render({})) == {"llm_lock": {"images": {}, "models": {}}}


OLD = {"images": {"kept:1": ONE, "gone:1": ONE, "moved:1": ONE, "same:1": ONE}, "models": {}}
NOW = {"images": {"moved:1": TWO, "same:1": ONE}, "models": {"a/b@main": A}}
DECLARED = {"images": ["kept:1", "moved:1", "same:1", "never:1"], "models": ["a/b@main"]}


def test_what_nobody_answered_for_keeps_its_entry_and_what_is_gone_is_dropped() -> None:
    new = lock.merge(OLD, NOW, DECLARED)
    assert new == {"images": {"kept:1": ONE, "moved:1": TWO, "same:1": ONE}, "models": {"a/b@main": A}}
    assert lock.changes(OLD, new, ["kept:1", "never:1"]) == [
        "gone:1: dropped, no host declares it",
        "kept:1: kept",
        f"moved:1: moved from {ONE} to {TWO}",
        "same:1: unchanged",
        f"a/b@main: locked to {A}",
    ]


def test_a_part_of_the_hosts_drops_nothing() -> None:
    assert "gone:1" in lock.merge(OLD, NOW, None)["images"]


# -- beside which inventory -------------------------------------------------------------------------------------------


def action() -> Any:
    """The action plugin as a module."""
    found = importlib.util.spec_from_file_location("llm_lock_action", catalogs.ROOT / "action_plugins/llm_lock.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def folders(*sources: Path | str) -> Any:
    return action()._folders([str(s) for s in sources])


def test_the_lock_lies_beside_each_inventory(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts.yml").touch()
    one, two = tmp_path / "one", tmp_path / "two"
    assert folders(one) == folders(one / "hosts.yml") == folders(one, one / "hosts.yml") == [one]
    assert folders(one / "hosts.yml", two) == [one, two]


@pytest.mark.parametrize("name", ["all", "all.yml", "all.yaml", "all.json"])
def test_variables_that_a_folder_would_hide_refuse_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / name).touch()
    with pytest.raises(AnsibleActionFail, match=r"no longer reads.*Move it to .*/group_vars/all/main\.\w+"):
        folders(tmp_path)


def test_hosts_of_a_command_line_have_no_place_for_a_lock() -> None:
    with pytest.raises(AnsibleActionFail, match="Write it to a file"):
        folders("one.example.org,")


# -- sending ----------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Stand-in for a server of the web: notes the Authorization of each request, and sends on what `to` says."""

    to = ""
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012 - one list for all requests of a test

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(302 if self.path == "/away" else 307 if self.path == "/renamed" else 404)
        if self.path in ("/away", "/renamed"):
            self.send_header("Location", f"{self.to}/end" if self.path == "/away" else "/end")
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def servers() -> Iterator[list[str]]:
    """Addresses of two servers; the first sends /away to the second."""
    started = [ThreadingHTTPServer(("127.0.0.1", 0), Server) for _ in range(2)]
    for server in started:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    addresses = [f"http://127.0.0.1:{s.server_port}" for s in started]
    Server.to, Server.seen = addresses[1], []
    yield addresses
    for server in started:
        server.shutdown()
        server.server_close()


def test_only_the_server_that_was_asked_gets_the_token(servers: list[str]) -> None:
    for path in ("/away", "/renamed"):
        answer = action().Web("").ask(Request("GET", servers[0] + path, {"Authorization": "Bearer t"}))
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert Server.seen == [("/away", "Bearer t"), ("/end", None), ("/renamed", "Bearer t"), ("/end", "Bearer t")]


def test_the_proxy_of_the_environment_is_used_but_not_for_the_loopback(
    servers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", servers[1])
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    web = action().Web("")
    for host in ("http://hub.example.org", servers[0]):
        web.ask(Request("GET", f"{host}/x"))
    assert [path for path, _ in Server.seen] == ["http://hub.example.org/x", "/x"]


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    module = action()
    web = module.Web("")
    first, again = (refused(web.ask, Request("GET", f"http://127.0.0.1:9/{n}")) for n in "12")
    assert first == again and "http://127.0.0.1:9 cannot be reached: " in first and len(web.silent) == 1


def test_a_wrong_ca_bundle_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for path in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(AnsibleActionFail, match=r"llm_ca_bundle: .* is no CA bundle .*Correct it"):
            action().Web(str(path))
