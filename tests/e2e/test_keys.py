"""Keys of clients and of engines change while requests go on."""

from __future__ import annotations

import collections
import re
import threading
import time
from collections.abc import Iterator

import pytest
from ansible.module_utils.llm.gateway import host as gateway_host

from tests.e2e.demo import CHECKOUT, KEY_SHAPE, MODEL, ROOT, SERVICE, Machine, Playbook
from tests.e2e.wire import Http1, Sent

pytestmark = pytest.mark.e2e

CLIENT, LOUD = "rotated", "llm-test-loud"
BOOK = "playbooks/keys.yml"


class Load:
    """Clients that ask the engine for its models, one request after the other, each with the key that is current."""

    def __init__(self, *keys: str) -> None:
        self.keys, self.statuses = list(keys), collections.Counter[tuple[str, int]]()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(len(keys))]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(120)

    def _ask(self, number: int) -> None:
        gateway = Http1(("127.0.0.1", 5010), patience=120)
        while not self.ended.wait(0.005):
            key = self.keys[number]
            status, _ = gateway.ask(Sent("GET", "/v1/models"), [("Authorization", f"Bearer {key}")])
            self.statuses[key, status] += 1

    def await_more(self, key: str, count: int = 50) -> None:
        """Wait until so many more requests with a key have been answered."""
        want, end = sum(n for (k, _), n in self.statuses.items() if k == key) + count, time.monotonic() + 120
        while sum(n for (k, _), n in [*self.statuses.items()] if k == key) < want:
            assert time.monotonic() < end, self.statuses
            time.sleep(0.01)

    def failed(self) -> dict[int, int]:
        """How often each status but 200 came."""
        return {status: n for (_, status), n in self.statuses.items() if status != 200}


@pytest.fixture
def known(machine: Machine) -> Iterator[None]:
    """The clients of before, whatever a test made."""
    machine.await_door()
    before = gateway_host.clients(ROOT / "gateway")
    yield
    gateway_host.keep_clients(ROOT / "gateway", before)
    gateway_host.refresh_keys(ROOT)


def key_of(text: str) -> str:
    found = KEY_SHAPE.search(text)
    assert found, text
    return found[0]


@pytest.mark.usefixtures("known")
@pytest.mark.fault(26, "a client's key, while four clients and a stream go on")
def test_a_client_s_key_is_rotated_under_load(playbook: Playbook, machine: Machine) -> None:
    named = ("-e", f"llm_key_client={CLIENT}")
    create = playbook(BOOK, "-e", "llm_key_do=create", *named, "-e", f"llm_key_services={SERVICE}").passed()
    old = key_of(create.stdout)
    with (
        Load(old, old, old, old) as load,
        machine.client(old).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count to one thousand."}],
            max_tokens=1500,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as stream,
    ):
        pieces = iter(stream)
        next(pieces)
        load.await_more(old)
        new = key_of(playbook(BOOK, "-e", "llm_key_do=rotate", *named, "-e", "llm_key_overlap=1h").passed().stdout)
        load.keys[:2] = [new, new]
        load.await_more(new)
        load.await_more(old)
        assert load.failed() == {}, "old and new overlap"
        load.keys[:] = [new] * 4
        load.await_more(new, 200)  # no request with the old one is under way any more
        table = playbook(BOOK).passed().stdout
        first = re.findall(rf"(k[0-9a-f]{{8}})\s+{CLIENT}\s", table)
        assert len(first) == 2 and old not in table and new not in table
        playbook(BOOK, "-e", "llm_key_do=revoke", "-e", f"llm_key_client={first[0]}").passed()
        load.await_more(new)
        next(pieces)  # what was let in goes on, although its key is revoked
        load.keys[0] = old
        load.await_more(old)
    requests = sum(load.statuses.values())
    print(f"\nrotation under load: {requests} requests, {load.failed()} of the revoked key")
    assert {(k, s) for (k, s) in load.statuses if s != 200} == {(old, 401)} and requests > 300


@pytest.mark.slow
@pytest.mark.usefixtures("known")
@pytest.mark.fault(26, "the key between gateway and engine, on the real engine")
def test_the_engine_s_key_is_rotated_under_load(playbook: Playbook, machine: Machine) -> None:
    release, gateway = machine.release, machine.gateway().attrs["State"]["StartedAt"]
    before = gateway_host.engine_keys(ROOT / "gateway")
    try:
        with Load(machine.key, machine.key) as load:
            load.await_more(machine.key)
            playbook(BOOK, "-e", "llm_key_do=rotate-engine").passed()
            load.await_more(machine.key)
            playbook("site.yml").passed().says("key between gateway and engine")
            load.await_more(machine.key)
        newest = gateway_host.engine_keys(ROOT / "gateway")[0]
        print(f"\nrotation of the engine's key: {sum(load.statuses.values())} requests, {load.failed()} failed")
        assert load.failed() == {}
        assert newest not in before and machine.release != release
        assert machine.gateway().attrs["State"]["StartedAt"] == gateway
        assert newest in (ROOT / "gateway/etc/maps/engines.map").read_text(), "the newest is the one in use"
        assert playbook("site.yml").passed().changed == 0
    finally:
        machine.await_door()


@pytest.mark.usefixtures("known")
def test_a_leaked_key_is_found_and_named_without_being_shown(playbook: Playbook, machine: Machine) -> None:
    clean = playbook(BOOK, "-e", "llm_key_do=leaks")
    # Whoever uses the machine meanwhile may have a key in the environment of a process, and is told so rightly.
    assert clean.rc == 0 or not re.search(r"(/\S+:\d+|docker inspect \S+|line \d+): key", clean.text), clean.text
    made = playbook(BOOK, "-e", "llm_key_do=create", "-e", "llm_key_client=leaky", "-e", "llm_key_services=*").passed()
    own, key = machine.key, key_of(made.stdout)
    engine = gateway_host.engine_keys(ROOT / "gateway")[0]
    places = {
        ROOT / "state" / "leak.txt": f"Authorization: Bearer {own}\n",
        ROOT / "services" / SERVICE / "leak.yml": f"key: {engine}\n",
    }
    loud = None
    try:
        for path, text in places.items():
            path.write_text(text)
        # A container that was given a key on its command line and wrote it into its log, and a report that was written by hand.
        loud = machine.docker.containers.run(
            machine.engine().attrs["Image"],
            [own],
            entrypoint=["echo"],
            name=LOUD,
            labels={"llm.supervisor": ""},
            detach=True,
        )
        assert loud.wait()["StatusCode"] == 0
        report = CHECKOUT / "reports/leak.txt"
        report.parent.mkdir(exist_ok=True)
        places[report] = ""
        report.write_text(f"export OPENAI_API_KEY={own}\n")
        # Of a client's key the host has the hash alone; the log of the machine has it from a client that was careless.
        log = ROOT / "state" / "leak.log"
        places[log] = ""
        log.write_text(f'{{"query": "api_key={key}"}}\n')
        run = playbook(BOOK, "-e", "llm_key_do=leaks").refused()
        run.says(
            f"{ROOT}/state/leak.txt:1: key of service {SERVICE}",
            f"{ROOT}/services/{SERVICE}/leak.yml:1: key between gateway and engines",
            f"{log}:1: key k",
            f"docker inspect {LOUD}: key of service {SERVICE}",
            f"log of container {LOUD}, line 1: key of service {SERVICE}",
            f"reports/leak.txt:1: key of service {SERVICE}",
            "of client leaky",
        )
        assert not {own, key, engine} & set(KEY_SHAPE.findall(run.stdout))
    finally:
        if loud:
            loud.remove(force=True)
        for path in places:
            path.unlink(missing_ok=True)
