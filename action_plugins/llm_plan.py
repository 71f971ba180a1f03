"""Controller side of `llm_plan`: reads variables and files, lets module_utils/llm judge, hands over; starts nothing on a host."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Ansible serves module_utils/ to modules only; action plugins run in its own process and need the folder on the path.
PROJECT = Path(__file__).resolve().parent.parent
_LIBRARY = str(PROJECT / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.llm.base import files, lease
from ansible.module_utils.llm.base.spelling import nearest
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.declare import inventory, lock, parse, renamed
from ansible.module_utils.llm.declare.findings import Finding, Findings
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.variables import OTHERS, SETTINGS, VARIABLES
from ansible.module_utils.llm.fit import estimate
from ansible.module_utils.llm.plan import compose, declaration, handover, judgement, needs, tables
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan.selection import Selection, select

KEYS = "llm_service_keys"
CATALOGS = ("images", "models", "recipes", "services")
# What playbooks pass on among themselves.
INTERNAL = (
    "llm_plan",
    "llm_host",
    "llm_smoke_services",
    "llm_smoke_depth",
    "llm_again",
    "llm_verdict",
    "llm_refresh_strict",
    "llm_refresh_for_change",
    "llm_stage",
    "llm_stage_last",
    "llm_gateway_address",
    "llm_report",
)


class ActionModule(ActionBase):
    """See library/llm_plan.py for the documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the plan as `plan`, or fail with every finding that refuses it."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, options = self.validate_argument_spec(
            argument_spec={
                "facts": {"type": "dict"},
                "report_dir": {"type": "str"},
                "refuse": {"type": "bool", "default": True},
                "verb": {"type": "bool", "default": False},
                "takes": {"type": "bool", "default": False},
            }
        )
        host = str(variables["inventory_hostname"])
        hosts = variables.get("ansible_play_hosts_all") or [host]
        reports = Path(options["report_dir"] or PROJECT / "reports").absolute() / (host if len(hosts) > 1 else "")
        if holder := self._holder(options):
            return dict(result, failed=True, msg=f"{host}: {holder}. Nothing was touched.")
        origins: dict[str, str] = {}
        raw, read = self._declaration(variables, origins)
        declared, findings = parse.parse(raw)
        read += findings
        if declared is None:
            found = judgement.by_service(read, raw["services"])
            _report(judgement.malformed(found, raw["host_services"]), reports)
            return dict(result, failed=True, msg=_refusal(host, found, origins))
        selection, unknown = select(
            variables.get("ansible_run_tags", ["all"]),
            variables.get("ansible_skip_tags", []),
            declared.host_services,
            declared.services,
        )
        to_lock = handover.to_lock(declared, selection.services)
        on_hub = lock.on_hub(declared, needs.needed_models(declared, selection.services))
        read += [*unknown, *(_with_file(f, origins) for f in lock.findings(declared, to_lock, raw["lock"]))]
        # The same declaration, so it is as well-formed, with digests for tags and commits for branches.
        declared = quantize_plan.settled(parse.parse(lock.pinned(raw, raw["lock"]))[0] or declared)
        given, more = self._given(declared, selection, options, variables)
        judged = judgement.judge(declared, given, {**more, "": [*read, *more.get("", [])]}, _command(variables))
        _report(declaration.document(declared, judged.findings, judged.fits), reports)
        if options["refuse"] and judgement.errors(judged.findings):
            # Ansible shows the message of a failed task twice, so the table is no part of it.
            table = tables.plan_table(declared, judged.findings, judged.fits, errors=False)
            Display().display("\n".join([f"{host} as declared", *table, ""]))
            return dict(result, failed=True, msg=_refusal(host, judged.findings, origins))
        if options["refuse"]:  # else the table of all that was found is shown
            result["warnings"] = [_with_file(f, origins).text() for f in judged.noticed]
        plan = handover.plan(judged, str(self._value(variables, "ansible_host", host)), _compose_text)
        places = {part: {e: _place(k, origins) for e, k in found.items()} for part, found in to_lock.items()}
        ours = {"report_dir": str(reports), "lockable": places, "on_hub": on_hub}
        return dict(result, plan={**plan, **ours}, changed=False)

    # -- reading --------------------------------------------------------------------------------------------------

    def _value(self, variables: Mapping[str, Any], name: str, default: Any) -> Any:
        return self._templar.template(variables[name]) if name in variables else default

    def _holder(self, options: Mapping[str, Any]) -> str:
        """Why another run that holds the host refuses this one, "" when none does."""
        asks = options["takes"] and not self._task.check_mode
        held: lease.HostLease | None = (options["facts"] or {}).get("lease") if asks else None
        if not held or not held["left"] or lease.is_mine(held, os.getppid()) or lease.is_dead(held):
            return ""
        return lease.refusal(held, held["left"])

    def _declaration(
        self, variables: Mapping[str, Any], origins: dict[str, str]
    ) -> tuple[dict[str, Any], list[Finding]]:
        """Variables as `parse.parse` wants them, and findings of the others; fills `origins` (key -> file:line)."""
        raw: dict[str, Any] = {}
        found: list[Finding] = []
        for kind in CATALOGS:
            ours = self._value(variables, f"llm_{kind}", None)
            theirs = self._value(variables, f"llm_{kind}_custom", None)
            _note_origins(f"llm_{kind}", ours, origins)
            _note_origins(f"llm_{kind}", theirs, origins)
            raw[kind], more = parse.catalog(kind, ours, theirs)
            found += more
        for key, variable in (("host_services", "llm_host_services"), ("gpus", "llm_host_gpus")):
            raw[key] = self._value(variables, variable, [])
            _note_origins(variable, raw[key], origins)
        raw["lock"] = self._value(variables, "llm_lock", {})
        _note_origins("llm_lock", raw["lock"], origins)
        settings = {}
        for key in SETTINGS:
            variable = f"llm_{key}"
            if variable in variables:
                value = self._value(variables, variable, None)
                _note_origins(variable, value, origins)
                settings[key] = parse.from_command_line(key, value)
        raw["settings"] = settings
        others = {name: self._value(variables, name, None) for name in OTHERS}
        for variable, value in {**others, KEYS: self._value(variables, KEYS, None)}.items():
            _note_origins(variable, value, origins)
        return raw, [*found, *_misnamed(variables, origins), *parse.variable_findings(others), *_inventory(variables)]

    def _given(
        self, declared: Declared, selection: Selection, options: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> tuple[judgement.Given, Findings]:
        """What the run knows beside the declaration, and findings, by service, of what cannot be read."""
        keys, ill = parse.service_keys(self._value(variables, KEYS, None), declared.services)
        plugins, missing = self._plugins(declared, variables)
        known, unreadable = self._known(declared, variables, options["facts"])
        given = judgement.Given(
            selection=selection,
            facts=options["facts"],
            plugins=plugins,
            known=known,
            keys=keys,
            verb=options["verb"],
            takes=options["takes"],
            check=bool(self._task.check_mode),
        )
        return given, {**missing, "": [*ill, *unreadable]}

    def _plugins(
        self, declared: Declared, variables: Mapping[str, Any]
    ) -> tuple[dict[str, dict[str, str]], dict[str, list[Finding]]]:
        """Contents of the plugin files of the host's services, and findings for files that are not there."""
        contents: dict[str, dict[str, str]] = {}
        missing: dict[str, list[Finding]] = {}
        inventory = variables.get("inventory_dir")
        places = [Path(inventory) / "files"] if inventory else []
        places.append(PROJECT / "files")
        for name in declared.host_services:
            contents[name] = {}
            for file in compose.plugin_files(declared.services[name]):
                candidates = [p / file for p in places]
                path = next((c for c in candidates if c.is_file()), None)
                if path is None:
                    looked = ", ".join(str(p) for p in places)
                    finding = Finding(
                        "plugin-missing",
                        "error",
                        f"llm_services.{name}.plugins",
                        f"file `{file}` is not in {looked}",
                        "Put it there",
                    )
                    missing.setdefault(name, []).append(finding)
                    continue
                try:
                    contents[name][path.name] = path.read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError) as error:
                    why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                    message, remedy = f"{path} cannot be read: {why}", "Save it as text in UTF-8, readable by you"
                    finding = Finding("plugin-unreadable", "error", f"llm_services.{name}.plugins", message, remedy)
                    missing.setdefault(name, []).append(finding)
        return contents, missing

    def _known(
        self, declared: Declared, variables: Mapping[str, Any], facts: Mapping[str, Any] | None
    ) -> tuple[dict[str, estimate.Known], list[Finding]]:
        """What is known of the models: from their files on the host, else from files/configs of the inventory or of ours."""
        found: dict[str, estimate.Known] = {}
        problems = []
        inventory = variables.get("inventory_dir")
        places = [p / "files" / "configs" for p in (*([Path(inventory)] if inventory else []), PROJECT)]
        for name in sorted({declared.services[s].model for s in declared.host_services}):
            state = (facts or {}).get("models", {}).get(name, {})
            digest = state.get("digest") or ""
            path = next((p / f"{name}.json" for p in places if (p / f"{name}.json").is_file()), None)
            if state.get("config"):
                size = (state.get("bytes") or 0) / GIB
                found[name] = estimate.Known(state["config"], state.get("tensors"), size, digest)
            elif path is not None:
                try:
                    kept = json.loads(path.read_text(encoding="utf-8"))
                    size = (kept.get("bytes") or 0) / GIB
                    found[name] = estimate.Known(kept["config"], kept.get("tensors"), size, digest)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    message = f"{path} is no JSON mapping with `config` ({type(error).__name__})"
                    remedy = "Remove it, and run playbooks/lock.yml"
                    problems.append(Finding("model-facts", "error", f"llm_models.{name}", message, remedy))
        return found, problems


def _refusal(host: str, findings: Findings, origins: Mapping[str, str]) -> str:
    """What a refused run says: every finding that refuses it, with its file."""
    found = [_with_file(f, origins) for f in judgement.errors(findings)]
    count = f"{len(found)} problem{'s' if len(found) != 1 else ''}"
    return "\n".join([f"{host}: refused, {count}; nothing was touched.", *(f"  - {f.text()}" for f in found)])


def _report(document: Mapping[str, Any], folder: Path) -> None:
    """Write plan.json; a report that cannot be written is an error, since others decide by it."""
    try:
        files.write(folder / "plan.json", json.dumps(document, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        message = f"llm_report_dir: cannot write {folder}/plan.json: {error.strerror}. Choose another folder"
        raise AnsibleActionFail(message) from error


def _command(variables: Mapping[str, Any]) -> str:
    """How to run site.yml with these inventories, for a remedy."""
    return " ".join(["ansible-playbook", *(f"-i {_short(str(s))}" for s in _sources(variables)), "site.yml"])


def _sources(variables: Mapping[str, Any]) -> list[Path]:
    """Files and folders of the inventories; a list of hosts with commas is none, and may be longer than a path can be."""
    given = variables.get("ansible_inventory_sources") or []
    return [Path(s) for s in given if "," not in s and Path(s).exists()]


def _misnamed(variables: Mapping[str, Any], origins: dict[str, str]) -> list[Finding]:
    """Variables that were renamed, and those that look like ours and are not: `llm_prun` would be ignored in silence.

    Names like none of ours are let be. Fills `origins` as _declaration does.
    """
    known = {*(f"llm_{s}" for s in SETTINGS), *VARIABLES, *INTERNAL}
    found = []
    for name, value in variables.items():
        message, remedy = renamed.successor(name)
        if message:
            found.append(Finding("renamed-variable", "error", name, message, remedy))
        elif name.startswith("llm_") and name not in known and (near := nearest(name, known)):
            message, remedy = "is no variable of this project", f"Did you mean `{near}`?"
            found.append(Finding("unknown-variable", "error", name, message, remedy))
        else:
            continue
        _note_origins(name, name, origins)
        _note_origins(name, value, origins)
    return found


def _inventory(variables: Mapping[str, Any]) -> list[Finding]:
    """What is amiss beside the inventories: files of variables that belong to nobody, and a host without a declaration."""
    folders = dict.fromkeys(s if s.is_dir() else s.parent for s in _sources(variables))
    entries = [
        inventory.Entry(_short(str(folder)), kind, entry.name, entry.is_dir())
        for folder in folders
        for kind in inventory.KINDS
        if (folder / kind).is_dir()
        for entry in sorted((folder / kind).iterdir())
    ]
    found = inventory.strays(entries, variables.get("groups") or {})
    if "llm_host_services" not in variables:
        host = str(variables["inventory_hostname"])
        found.append(inventory.undefined(host, [_short(str(f)) for f in folders], entries, found))
    return found


def _note_origins(key: str, value: Any, origins: dict[str, str]) -> None:
    """Remember where each value was written. Ansible tags values with their origin; without the tag nothing is noted.

    true, false and numbers carry no tag, but their names do.
    """
    try:
        from ansible._internal._datatag._tags import Origin
    except ImportError:  # a private name: when it moves, messages only lose their file and line
        return

    def visit(path: str, entry: Any) -> None:
        origin = Origin.get_tag(entry)
        if origin is not None and origin.path:
            line = f":{origin.line_num}" if origin.line_num else ""
            origins[path] = f"{_short(origin.path)}{line}"
        elif origin is not None and origin.description:
            origins[path] = str(origin.description)
        if isinstance(entry, Mapping):
            for name, inner in entry.items():
                visit(f"{path}.{name}", name)
                visit(f"{path}.{name}", inner)
        elif isinstance(entry, (list, tuple)):
            for position, inner in enumerate(entry):
                visit(f"{path}.{position}", inner)

    visit(key, value)


@cache
def _short(path: str) -> str:
    full = Path(path).resolve()
    try:
        return str(full.relative_to(Path.cwd()))
    except ValueError:
        return str(full)


def _with_file(finding: Finding, origins: Mapping[str, str]) -> Finding:
    """The finding with the file and line of its key, or of the nearest key above it."""
    key = finding.key
    while key:
        if key in origins:
            return Finding(**{**vars(finding), "file": origins[key]})
        key = key.rpartition(".")[0]
    return finding


def _place(key: str, origins: Mapping[str, str]) -> str:
    """A key with its file and line, for a person."""
    return f"{key} ({origins[key]})" if key in origins else key


def _compose_text(release: compose.Release) -> str:
    """The compose file of a release."""
    text = yaml.safe_dump(handover.plain(release.compose), sort_keys=False, width=1000, allow_unicode=True)
    header = (
        f"# Rendered from llm_services.{release.service}. Edits are lost: change the declaration and run site.yml.\n"
    )
    # A dollar sign would be read as a variable by Compose.
    return header + str(text).replace("$", "$$")
