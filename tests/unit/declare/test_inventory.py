"""Whose files of variables are, hosts without a declaration, and runs without an inventory."""

import pytest
from ansible.module_utils.llm.declare import inventory

GROUPS = {"all": ["my-box", "box.example.org"], "ungrouped": [], "gpus": ["my-box"]}


def host_vars(name: str, *, folder: bool = False) -> inventory.Entry:
    return inventory.Entry("inv", "host_vars", name, folder)


def group_vars(name: str, *, folder: bool = False) -> inventory.Entry:
    return inventory.Entry("inv", "group_vars", name, folder)


@pytest.mark.parametrize(
    "entry",
    [
        host_vars("my-box"),
        host_vars("my-box", folder=True),
        host_vars("my-box.yml"),
        host_vars("my-box.yaml"),
        host_vars("my-box.json"),
        host_vars("box.example.org"),
        host_vars("box.example.org.yml"),
        host_vars("box.example.org", folder=True),
        group_vars("all.yml"),
        group_vars("all", folder=True),
        group_vars("ungrouped.yml"),
        group_vars("gpus.json"),
        # Read for nobody, and meant for nobody.
        host_vars("README.md"),
        host_vars("old.yml.bak"),
        host_vars(".gitkeep"),
        host_vars(".old.yml"),
        host_vars(".git", folder=True),
        host_vars("old~"),
    ],
    ids=lambda e: f"{e.path}{'/' * e.is_folder}",
)
def test_what_belongs_to_somebody_is_let_be(entry: inventory.Entry) -> None:
    assert inventory.strays([entry], GROUPS) == []


@pytest.mark.parametrize(
    ("entry", "kind", "remedy"),
    [
        (host_vars("my-bx.yml"), "host", "Did you mean `my-box`?"),
        (host_vars("old.yml"), "host", "Name it after a host (box.example.org, my-box), or remove it"),
        (host_vars("old.yaml"), "host", "Name it after a host"),
        (host_vars("old.json"), "host", "Name it after a host"),
        (host_vars("old"), "host", "Name it after a host"),
        (host_vars("old", folder=True), "host", "Name it after a host"),
        (host_vars("box.example.com", folder=True), "host", "Did you mean `box.example.org`?"),
        (host_vars("gpus.yml"), "host", "Name it after a host"),
        # Ansible itself has a host of this name, that no run of ours is for.
        (host_vars("localhost.yml"), "host", "Name it after a host"),
        (group_vars("gpu.yml"), "group", "Did you mean `gpus`?"),
        (group_vars("my-box.yml"), "group", "Name it after a group (all, gpus, ungrouped), or remove it"),
    ],
    ids=lambda e: f"{e.path}{'/' * e.is_folder}" if isinstance(e, inventory.Entry) else "",
)
def test_what_belongs_to_nobody_is_named(entry: inventory.Entry, kind: str, remedy: str) -> None:
    (found,) = inventory.strays([entry], GROUPS)
    assert (found.id, found.severity, found.key) == (f"{kind}-vars-stray", "warn", entry.path)
    assert f"no {kind} of the inventory" in found.message and remedy in found.remedy


def test_many_names_are_not_all_told() -> None:
    (found,) = inventory.strays([host_vars("old.yml")], {"all": [f"web-{n}" for n in range(9)]})
    assert "(web-0, web-1, web-2, web-3, web-4, ...)" in found.remedy


@pytest.mark.parametrize(
    ("folders", "entries", "place"),
    [
        (["inv"], [], "inv/host_vars/my-box.yml;"),
        (["inv", "other"], [group_vars("all.yml")], "inv/host_vars/my-box.yml;"),
        (["other", "inv"], [host_vars("my-box", folder=True)], "inv/host_vars/my-box;"),
        (["inv"], [host_vars("my-box.json")], "inv/host_vars/my-box.json;"),
        ([], [], "host_vars/my-box.yml beside the inventory;"),
    ],
)
def test_a_host_without_a_declaration_is_told_where_to_write_it(
    folders: list[str], entries: list[inventory.Entry], place: str
) -> None:
    found = inventory.undefined("my-box", folders, entries, inventory.strays(entries, GROUPS))
    assert (found.id, found.severity, found.key) == ("host-services-undefined", "error", "llm_host_services")
    assert found.message == "is not defined for host `my-box`" and f"Write it to {place} `[]`" in found.remedy


def test_a_renamed_host_is_told_of_its_file() -> None:
    entries = [host_vars("old-box.yml"), group_vars("lost.yml")]
    found = inventory.undefined("my-box", ["inv"], entries, inventory.strays(entries, GROUPS))
    assert found.message == "is not defined for host `my-box`, while inv/host_vars/old-box.yml belongs to no host"
    assert "rename its file" in found.remedy and "inv/host_vars/my-box.yml" in found.remedy
    entries.append(host_vars("older", folder=True))
    found = inventory.undefined("my-box", ["inv"], entries, inventory.strays(entries, GROUPS))
    assert "inv/host_vars/old-box.yml and inv/host_vars/older belong to no host" in found.message


@pytest.mark.parametrize(
    ("chosen", "hosts", "begins"),
    [
        (True, ["my-box"], ""),
        (False, [], "No inventory was chosen, and nothing was started. "),
        # Those of /etc/ansible/hosts, which Ansible takes by itself.
        (False, ["my-box"], "No inventory was chosen, and nothing was started. "),
        (True, [], "There is no host in a, b, and nothing was started. "),
    ],
)
def test_a_run_without_an_inventory_is_told_the_ways_to_choose(chosen: bool, hosts: list[str], begins: str) -> None:
    said = inventory.unchosen(["a", "b"], chosen, hosts, ["inventory/demo", "inventory/mine"])
    assert said.startswith(begins) and bool(said) == bool(begins) and "\n" not in said
    for way in ("-i INVENTORY (here: inventory/demo, inventory/mine)", "export ANSIBLE_INVENTORY=INVENTORY"):
        assert (way in said) == bool(begins)
