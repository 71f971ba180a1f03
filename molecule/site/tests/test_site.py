"""A client on the machine gets a right answer, through the gateway alone."""

from __future__ import annotations

import json

from testinfra.host import Host

KEY = "/opt/llm/keys/micro-cpu"
URL = "http://127.0.0.1:5010/v1"


def ask(host: Host, path: str, key: str, body: str = "") -> tuple[int, str]:
    """Status and body of a request to the gateway, sent on the machine."""
    script = f"""python3 - <<'EOF'
import urllib.error, urllib.request
headers = {{"Authorization": "Bearer {key}", "Content-Type": "application/json"}}
try:
    answer = urllib.request.urlopen(urllib.request.Request("{URL}{path}", {body!r}.encode() or None, headers), timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
print(answer.read().decode())
EOF"""
    status, _, text = host.check_output(script).partition("\n")
    return int(status), text


def test_the_service_answers_through_the_gateway(host: Host) -> None:
    question = {"role": "user", "content": "What is the capital of France?"}
    body = json.dumps({"model": "smollm2-135m-instruct", "messages": [question], "temperature": 0, "max_tokens": 30})
    status, text = ask(host, "/chat/completions", host.check_output(f"cat {KEY}"), body)
    assert status == 200, text
    assert "Paris" in json.loads(text)["choices"][0]["message"]["content"]


def test_a_wrong_key_is_refused(host: Host) -> None:
    assert ask(host, "/models", "wrong")[0] == 401


def test_only_the_gateway_publishes_a_port(host: Host) -> None:
    listed = host.check_output("docker ps --format '{{.Names}} {{.Ports}}'").splitlines()
    assert [line.split()[0] for line in listed if "->" in line] == ["llm-gateway"]
    assert not host.socket("tcp://0.0.0.0:5010").is_listening
    assert host.socket("tcp://127.0.0.1:5010").is_listening


def test_keys_belong_to_root_and_to_the_engine(host: Host) -> None:
    assert (host.file(KEY).user, host.file(KEY).mode) == ("root", 0o400)
    secret = host.file("/opt/llm/services/micro-cpu/current/secrets/engine.yml")
    assert (secret.uid, secret.mode) == (64000, 0o400)


def test_the_engine_is_confined(host: Host) -> None:
    name = host.check_output("docker ps --filter label=llm.service=micro-cpu --format '{{.Names}}'")
    found = json.loads(host.check_output(f"docker inspect {name}"))[0]
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["Config"]["User"] == "64000:64000"
    assert host.check_output(f"cat {KEY}") not in json.dumps(found)
    assert host.run(f"docker exec {name} python3 -c \"open('/opt/x', 'w')\"").rc != 0


def test_the_release_is_current_and_proven(host: Host) -> None:
    verdict = json.loads(host.file("/opt/llm/services/micro-cpu/current/verdict.json").content_string)
    assert verdict["ok"] is True
