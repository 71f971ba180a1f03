"""One run at a time: who gets a host, who waits, and what a run that was killed leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.llm.base import lease, progress

MODULE_UTILS = Path(lease.__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / lease.FILE


@pytest.fixture
def other() -> lease.Claim:
    """A run of another controller."""
    return {"holder": "ops@elsewhere", "controller": "elsewhere", "pid": 4, "started": "b/1", "run": "theirs"}


def me() -> lease.Claim:
    return lease.claimant(os.getpid())


def age(place: Path, seconds: float) -> None:
    kept = lease.read(place)
    place.write_text(json.dumps({**kept, "expires": kept["expires"] - seconds}))


def test_a_free_host_is_taken_and_given_back(place: Path) -> None:
    assert lease.facts(place) == {**lease.FREE, "left": 0.0}
    taken = lease.take(place, me(), ["b", "a"], 0)
    assert lease.read(place) == taken
    assert (taken["services"], taken["generation"], taken["pid"]) == (["a", "b"], 1, os.getpid())
    assert 0 < lease.facts(place)["left"] <= lease.VALID
    assert lease.is_mine(taken, os.getpid())
    assert lease.release(place, taken["run"])
    assert lease.read(place) == {**lease.FREE, "generation": 1}
    assert not lease.release(place, taken["run"])


def test_taking_again_renews_and_counts_once(place: Path) -> None:
    first = lease.take(place, me(), ["a"], 0)
    age(place, 600)
    second = lease.take(place, me(), ["a", "b"], 0)
    assert second["expires"] >= first["expires"]
    assert (second["since"], second["generation"], second["services"]) == (first["since"], 1, ["a", "b"])


def test_who_changes_a_service_is_known_while_the_lease_lives(place: Path, other: lease.Claim) -> None:
    assert lease.holder(place, "a") == ""
    lease.take(place, {**other, "holder": "ops@box", "pid": 7}, ["a"], 0)
    assert (lease.holder(place, "a"), lease.holder(place, "b")) == ("ops@box (pid 7)", "")
    with lease.no_run_begins(place, "a") as who:
        assert who == "ops@box (pid 7)"
    age(place, lease.VALID)
    assert lease.holder(place, "a") == ""


def test_a_run_waits_for_a_recovery_that_is_at_work(place: Path) -> None:
    code = "import json, sys; from pathlib import Path; from ansible.module_utils.llm.base import lease;"
    code += "print(1, flush=True); lease.take(Path(sys.argv[1]), json.loads(sys.argv[2]), ['a'], 0); print(2)"
    argv = [sys.executable, "-c", f"import ansible.module_utils as m; m.__path__.append({str(MODULE_UTILS)!r}); {code}"]
    with lease.no_run_begins(place, "a") as who:
        run = subprocess.Popen([*argv, str(place), json.dumps(me())], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None and run.stdout.readline() == "1\n"
        # It is seen to wait for the lock, and not only to be slow.
        while Path(f"/proc/{run.pid}/wchan").read_text() != "locks_lock_inode_wait":
            assert run.poll() is None and lease.read(place)["run"] == ""
            time.sleep(0.01)
        assert who == ""
    assert run.communicate(timeout=60)[0] == "2\n" and run.returncode == 0


def test_a_second_run_is_told_who_has_it(place: Path, other: lease.Claim) -> None:
    lease.take(place, other, ["chat"], 0)
    before = place.read_text()
    with pytest.raises(lease.Held, match=r"ops@elsewhere \(pid 4\) since .* UTC, services chat\. Wait until it ends"):
        lease.take(place, me(), [], 1)
    assert place.read_text() == before


def test_a_run_that_read_the_host_before_another_changed_it_reads_again(place: Path, other: lease.Claim) -> None:
    lease.take(place, other, [], 0)
    lease.release(place, "theirs")
    with pytest.raises(lease.Held, match="since it was read"):
        lease.take(place, me(), [], 0)
    assert lease.take(place, me(), [], 1)["generation"] == 2


def test_a_lease_that_nobody_renews_expires(place: Path, other: lease.Claim) -> None:
    lease.take(place, other, [], 0)
    age(place, lease.VALID)
    assert lease.facts(place)["left"] == 0
    assert lease.take(place, me(), [], 1)["run"] == me()["run"]
    assert not lease.renew(place, "theirs")


@pytest.fixture
def killed(place: Path) -> Callable[[], lease.Lease]:
    """Takes the host for service a, as a run on the host itself that is then killed; returns the lease."""

    def take() -> lease.Lease:
        process = subprocess.Popen(["sleep", "600"])
        taken = lease.take(place, lease.claimant(process.pid), ["a"], 0)
        assert not lease.is_dead(taken) and lease.holder(place, "a") and lease.facts(place)["left"]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lease.is_dead(taken) and not lease.holder(place, "a"), "a zombie changes nothing any more"
        process.wait()
        assert lease.is_dead(taken)
        return taken

    return take


def test_a_run_that_was_killed_on_the_host_itself_holds_it_no_longer(
    place: Path, killed: Callable[[], lease.Lease]
) -> None:
    killed()
    assert (lease.holder(place, "a"), lease.facts(place)["left"]) == ("", 0)
    assert lease.take(place, me(), [], 1)["generation"] == 2


def test_of_a_run_in_another_process_table_only_its_controller_knows_that_it_is_dead(
    place: Path, killed: Callable[[], lease.Lease]
) -> None:
    taken = killed()
    place.write_text(json.dumps({**taken, "processes": "pid:[1]"}))
    assert lease.holder(place, "a") and lease.facts(place)["left"]
    with pytest.raises(lease.Held):
        lease.take(place, me(), [], 1)
    assert lease.take(place, me(), [], 1, dead=taken["run"])["generation"] == 2


def test_a_service_is_let_be_while_a_module_of_a_killed_run_is_at_work_on_the_host(
    place: Path, killed: Callable[[], lease.Lease]
) -> None:
    taken = killed()
    with lease.at_work(place):
        assert lease.holder(place, "a") == f"{taken['holder']} (pid {taken['pid']})"
    assert lease.holder(place, "a") == ""


def test_a_number_that_another_process_got_is_not_the_run(place: Path) -> None:
    taken = lease.take(place, {**me(), "started": "long ago/1"}, [], 0)
    assert lease.is_dead(taken)


def test_of_another_controllers_process_nothing_is_known(place: Path, other: lease.Claim) -> None:
    assert not lease.is_dead(lease.take(place, {**other, "pid": 2**22 + 1}, [], 0))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"pid": "x"}', '{"services": 3}'])
def test_a_damaged_file_is_a_free_host(place: Path, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text)
    assert lease.read(place) == lease.FREE


def test_only_one_of_many_gets_it(place: Path) -> None:
    script = (
        "import sys, ansible.module_utils\n"
        "ansible.module_utils.__path__.append(sys.argv[1])\n"
        "from pathlib import Path\n"
        "from ansible.module_utils.llm.base import lease\n"
        "sys.stdin.read()\n"
        "claim = {'holder': 'h', 'controller': 'c', 'pid': 1, 'started': 's', 'run': sys.argv[3]}\n"
        "try: print(lease.take(Path(sys.argv[2]), claim, [], 0)['run'])\n"
        "except lease.Held: pass\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(MODULE_UTILS), str(place), f"run{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(6)
    ]
    for run in runs:
        assert run.stdin
        run.stdin.close()
        run.stdin = None
    winners = [out for out in (run.communicate()[0].strip() for run in runs) if out]
    assert winners == [lease.read(place)["run"]]


LEFTOVER = """
import sys, time, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.llm.base.progress import Progress
Progress(sys.argv[2])
time.sleep(600)
"""


def test_a_module_that_outlives_its_run_is_gone_before_the_next_begins(place: Path, tmp_path: Path) -> None:
    lease.take(place, {**me(), "run": "killed"}, [], 0)
    file = tmp_path / "p"
    module = subprocess.Popen([sys.executable, "-c", LEFTOVER, str(MODULE_UTILS), str(file)], start_new_session=True)
    watched = progress.lease_path(file)
    work = place.with_name(".lease.work")
    end = time.monotonic() + 60
    while not work.exists():
        watched.write_text(f"killed {place}")
        assert time.monotonic() < end
        time.sleep(0.05)
    assert module.poll() is None
    lease.take(place, me(), [], 1, dead="killed")
    # Its lock is gone with it; the parent may have to look once more.
    assert module.wait(60) == -signal.SIGTERM


def test_a_watched_module_renews_the_lease_of_its_run(place: Path, tmp_path: Path) -> None:
    lease.take(place, {**me(), "run": "long"}, [], 0)
    age(place, lease.VALID * 0.6)
    file = tmp_path / "p"
    module = subprocess.Popen([sys.executable, "-c", LEFTOVER, str(MODULE_UTILS), str(file)], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while lease.facts(place)["left"] < lease.VALID / 2:
            progress.lease_path(file).write_text(f"long {place}")
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        module.kill()
        module.wait()


def test_services_are_those_that_the_work_touches() -> None:
    work: Any = {
        "deploy": [{"name": "b", "displaces": [{"service": "c", "container": "llm-c-1"}]}, {"name": "a"}],
        "stop": [{"service": "d"}],
        "removed": [{"service": "f"}],
        "orphans": [{"service": "e"}],
    }
    assert lease.services(work) == ["a", "b", "c", "d", "f"]
