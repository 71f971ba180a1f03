"""Controller side of `llm_plan`: reads variables, calls the pure functions of module_utils/llm, starts nothing on any host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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

from ansible.module_utils.llm.base import files, lease, names
from ansible.module_utils.llm.base.names import ACME_IMAGE, GATEWAY_IMAGE
from ansible.module_utils.llm.base.spelling import nearest
from ansible.module_utils.llm.base.units import GIB
from ansible.module_utils.llm.clients import programs
from ansible.module_utils.llm.declare import inventory, lock, parse, renamed
from ansible.module_utils.llm.declare.facts import NO_MODEL, Facts, Reason
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.declare.variables import OTHERS, SETTINGS, VARIABLES
from ansible.module_utils.llm.engine.judge import known
from ansible.module_utils.llm.fit import estimate, rules
from ansible.module_utils.llm.gateway import keys as gateway_keys
from ansible.module_utils.llm.models import store
from ansible.module_utils.llm.plan import (
    changes,
    compose,
    declaration,
    deploy,
    needs,
    on_host,
    placement,
    status,
    supervisor,
)
from ansible.module_utils.llm.plan import gateway as gateway_plan
from ansible.module_utils.llm.plan import preflight as preflight_plan
from ansible.module_utils.llm.plan import quantize as quantize_plan
from ansible.module_utils.llm.plan import tables as plan_tables
from ansible.module_utils.llm.plan.selection import select

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
        origins: dict[str, str] = {}
        held = (options["facts"] or {}).get("lease", {}) if options["takes"] and not self._task.check_mode else {}
        if held.get("left") and not (lease.is_mine(held, os.getppid()) or lease.is_dead(held)):
            result.update(failed=True, msg=f"{host}: {lease.refusal(held, held['left'])}. Nothing was touched.")
            return result
        raw, names = self._declaration(variables, origins)
        others = {name: self._value(variables, name, None) for name in OTHERS}
        given_keys = self._value(variables, "llm_service_keys", None)
        for variable, value in {**others, "llm_service_keys": given_keys}.items():
            _note_origins(variable, value, origins)
        names += [*_misnamed(variables, origins), *parse.variable_findings(others), *_inventory(variables)]
        declared, findings = parse.parse(raw)
        if declared is None:
            judged = _by_service([*names, *findings], raw["services"])
            _report(_refusal_document(judged, raw), reports)
            return self._refused(result, host, judged, origins)
        selection, unknown = select(
            variables.get("ansible_run_tags", ["all"]),
            variables.get("ansible_skip_tags", []),
            declared.host_services,
            declared.services,
        )
        to_lock = _to_lock(declared, selection.services)
        on_hub = lock.on_hub(declared, needs.needed_models(declared, selection.services))
        lock_findings = lock.findings(declared, to_lock, raw["lock"])
        # The same declaration, so it is as well-formed, with digests for tags and commits for branches.
        declared = quantize_plan.settled(parse.parse(lock.pinned(raw, raw["lock"]))[0] or declared)
        judged = declaration.judge(declared, _command(variables))
        located = [_with_file(f, origins) for f in lock_findings]
        judged[""] = [*names, *findings, *unknown, *located, *judged.get("", [])]
        keys, ill = parse.service_keys(given_keys, declared.services)
        judged[""] += ill
        running = [s for s in placement.deployed(declared) if s in selection.services]
        plugins, missing = self._plugins(declared, variables)
        for service, found in missing.items():
            judged[service] += found
        facts = options["facts"]
        noticed: list[Finding] = []
        if facts and facts["docker"]["running"] is not None:
            seen = on_host.look_at_host(declared, facts, running, selection.stages, options["verb"])
            for service, found in seen.items():
                judged.setdefault(service, []).extend(found)
                noticed += [f for f in found if f.severity == "warn"]
            # A verb takes nothing; it shows, at most, what site.yml would.
            if options["takes"] or options["verb"]:
                judged[""] += on_host.loss_findings(declared, facts, selection.stages)
        rendered = changes.releases(declared, facts, plugins)
        if facts:
            for service, found in on_host.foreign_findings(declared, facts, running, rendered).items():
                judged.setdefault(service, []).extend(found)
        known, unreadable = self._known(declared, variables, facts)
        judged[""] += unreadable
        fits = declaration.estimates(declared, known, facts)
        for service, found in declaration.fit_findings(declared, fits).items():
            judged[service] += map(rules.cite, found)
        for service, found in declaration.answer_findings(declared, facts).items():
            judged[service] += found
        configs = {name: model.config for name, model in known.items() if model.config}
        broken = rules.judge(declared, configs, placement.deployed(declared), fits)
        for service, found in broken.findings.items():
            judged[service] += found
        judged = rules.silence(declared, judged, broken.undecided)
        judged[""] += rules.accept_findings(declared)
        document = declaration.document(declared, judged, fits)
        _report(document, reports)
        errors = [f for found in judged.values() for f in found if f.severity == "error"]
        if errors and options["refuse"]:
            # Ansible shows the message of a failed task twice, so the table is no part of it.
            Display().display(
                "\n".join([f"{host} as declared", *plan_tables.plan_table(declared, judged, fits, errors=False), ""])
            )
            return self._refused(result, host, judged, origins)
        if options["refuse"]:  # else the table of all that was found is shown
            result["warnings"] = [_with_file(f, origins).text() for f in noticed]
        reached = str(self._value(variables, "ansible_host", host))
        reasons = changes.service_work(facts, running, rendered, keys) if facts else {s: [] for s in rendered}
        result["plan"] = {
            **document,
            "report_dir": str(reports),
            "table": "\n".join(plan_tables.plan_table(declared, judged, fits)),
            "stages": list(selection.stages),
            "todo": changes.todo(selection.stages, None),
            "selected": list(selection.services),
            "named": list(selection.named),
            "lockable": {part: {e: _place(k, origins) for e, k in found.items()} for part, found in to_lock.items()},
            "on_hub": on_hub,
            "declared_services": sorted(declared.services),
            "deployed": list(placement.deployed(declared)),
            "about": {
                s: {
                    "model": declared.services[s].served_model_name,
                    "description": declared.services[s].description,
                    "release": (facts or {}).get("releases", {}).get(s, {}).get("current") or "",
                }
                for s in placement.deployed(declared)
            },
            "machine": {"processor": facts["processor"]} if facts and "processor" in facts else {},
            "clients": [_for_clients(declared, s, reached) for s in placement.deployed(declared)],
            "settings": {f: getattr(declared.settings, f) for f in SETTINGS if f != "gateway"}
            | {"force": list(declared.settings.force), "switch": list(declared.settings.switch)},
            "images": [
                _plain(image_job(declared, i, rendered)) for i in needs.images_to_make(declared, facts, running)
            ],
            "models": _missing_models(declared, running, facts),
            "models_here": _models_here(declared, selection.services, facts),
            "services": {
                s: {**document["services"][s], **_service(declared, rendered[s], facts, with_files=s in reasons)}
                for s in declared.host_services
            },
            "host": _host_wants(declared),
            "supervisor": _plain(supervisor.plan(declared)),
            "gateway": _plain(gateway_plan.settings(declared)),
            "gateway_image": compose.image_ref(declared.images[GATEWAY_IMAGE])
            if GATEWAY_IMAGE in declared.images
            else "",
            "acme_image": compose.image_ref(declared.images[ACME_IMAGE])
            if ACME_IMAGE in needs.gateway_images(declared)
            else "",
        }
        if facts:
            result["plan"]["work"] = _work(
                declared, facts, running, selection.services, rendered, reasons, bool(self._task.check_mode)
            )
            result["plan"]["work"]["preflight"] = _plain(
                preflight_plan.jobs(declared, facts, reasons, rendered, configs, predict=bool(self._task.check_mode))
            )
            result["plan"]["todo"] = changes.todo(
                selection.stages,
                result["plan"]["work"],
                images=result["plan"]["images"],
                models=result["plan"]["models"],
                prune=declared.settings.prune,
                check=bool(self._task.check_mode),
            )
            beside = [s for s, entry in result["plan"]["services"].items() if entry["side_by_side"]]
            releases = {s: r for s, r in facts["releases"].items() if s in declared.host_services}
            result["plan"]["rollback"] = _plain(deploy.rollback(releases, selection.named, rendered, beside))
            real = status.status(declared, facts, judged, reasons, rendered)
            result["plan"]["status"] = _plain(real)
            result["plan"]["status_table"] = "\n".join(plan_tables.status_table(declared, facts, real, judged))
        result["changed"] = False
        return result

    # -- reading --------------------------------------------------------------------------------------------------

    def _value(self, variables: Mapping[str, Any], name: str, default: Any) -> Any:
        return self._templar.template(variables[name]) if name in variables else default

    def _declaration(
        self, variables: Mapping[str, Any], origins: dict[str, str]
    ) -> tuple[dict[str, Any], list[Finding]]:
        """Variables as `spec.parse` wants them, and findings of those that are no catalogs; fills `origins` (key -> file:line)."""
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
                settings[key] = _from_command_line(key, value)
        raw["settings"] = settings
        return raw, found

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
        self, declared: Declared, variables: Mapping[str, Any], facts: Facts | None
    ) -> tuple[dict[str, estimate.Known], list[Finding]]:
        """What is known of the models: from their files on the host, else from files/configs of the inventory or of ours."""
        found: dict[str, estimate.Known] = {}
        problems = []
        inventory = variables.get("inventory_dir")
        places = [p / "files" / "configs" for p in (*([Path(inventory)] if inventory else []), PROJECT)]
        for name in sorted({declared.services[s].model for s in declared.host_services}):
            state = facts["models"].get(name, NO_MODEL) if facts else NO_MODEL
            digest = state["digest"] or ""
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

    # -- answering ------------------------------------------------------------------------------------------------

    def _refused(
        self, result: dict[str, Any], host: str, judged: Mapping[str, list[Finding]], origins: Mapping[str, str]
    ) -> dict[str, Any]:
        found = [_with_file(f, origins) for findings in judged.values() for f in findings if f.severity == "error"]
        count = f"{len(found)} problem{'s' if len(found) != 1 else ''}"
        lines = [f"{host}: refused, {count}; nothing was touched.", *(f"  - {f.text()}" for f in found)]
        result.update(failed=True, msg="\n".join(lines))
        return result


def _refusal_document(judged: Mapping[str, list[Finding]], raw: Mapping[str, Any]) -> dict[str, Any]:
    """plan.json of a declaration that is not even well-formed."""
    listed = raw["host_services"] if isinstance(raw["host_services"], (list, tuple)) else []
    services = {
        service: {
            "verdict": "refuse" if judged.get(service) else "ok",
            "findings": [f.as_dict() for f in judged.get(service, [])],
            "gpus": [],
            "kv_tokens": {"low": None, "high": None},
        }
        for service in dict.fromkeys([*map(str, listed), *(s for s in judged if s)])
    }
    return {"services": services, "findings": [f.as_dict() for f in judged.get("", [])]}


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


def _from_command_line(key: str, value: Any) -> Any:
    """Values given with -e NAME=VALUE are text: turn them into what the setting wants."""
    if key in ("offline", "prune", "repair", "supervisor") and isinstance(value, str):
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(value.lower(), value)
    if key == "engine_uid" and isinstance(value, str) and value.isdigit():
        return int(value)
    if key in ("force", "switch") and isinstance(value, str):
        return [word for word in value.replace(",", " ").split() if word]
    return value


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


def _by_service(findings: Iterable[Finding], services: Any) -> dict[str, list[Finding]]:
    names = [str(s) for s in services] if isinstance(services, Mapping) else []
    found: dict[str, list[Finding]] = {"": []}
    for finding in findings:
        parts = finding.key.split(".")
        owner = parts[1] if parts[0] == "llm_services" and len(parts) > 1 and parts[1] in names else ""
        found.setdefault(owner, []).append(finding)
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


def _to_lock(declared: Declared, services: Iterable[str]) -> dict[str, dict[str, str]]:
    """Tags and branches that these services and their gateway come from; see lock.wanted."""
    services = tuple(services)
    gateway = needs.gateway_images(declared) if services else []
    models = needs.needed_models(declared, services)
    images = [*needs.needed_images(declared, services), *quantize_plan.images(declared, models), *gateway]
    return lock.wanted(declared, images, [*models, *quantize_plan.sources(declared, models)])


def _plain(value: Any) -> Any:
    """Without Ansible's tagged types, so that YAML and JSON come out plain."""
    plain: Any = json.loads(json.dumps(value))
    return plain


def to_yaml(document: Mapping[str, Any]) -> str:
    """Deterministic YAML in the order given."""
    return str(yaml.safe_dump(_plain(document), sort_keys=False, width=1000, allow_unicode=True))


def _compose_text(release: compose.Release) -> str:
    header = (
        f"# Rendered from llm_services.{release.service}. Edits are lost: change the declaration and run site.yml.\n"
    )
    # A dollar sign would be read as a variable by Compose.
    return header + to_yaml(release.compose).replace("$", "$$")


def _service(
    declared: Declared,
    release: compose.Release,
    facts: Facts | None = None,
    *,
    with_files: bool = True,
) -> dict[str, Any]:
    """What role vllm_service is given; with the files of the release only where they are to be written."""
    service, settings = declared.services[release.service], declared.settings
    model = declared.models[service.model]
    folder = compose.release_dir(settings, service.name, release.hash)
    beside = placement.SideBySide(False, "the host was not looked at")
    if facts:
        beside = placement.side_by_side(declared, facts, service.name)
    rendered: dict[str, Any] = _plain(
        {
            "name": service.name,
            "release": release.hash,
            "container": release.container,
            "folder": folder,
            "service_folder": compose.service_dir(settings, service.name),
            "cache": f"{settings.root}/cache/{names.cache_key(release.facts['image']['id'])}",
            "key_file": compose.key_file(settings, service.name),
            "image": compose.image_ref(declared.images[service.image]),
            "model_folder": compose.model_dir(settings, declared.models[service.model]),
            "record_folder": f"{settings.root}/state/calibration",
            "record_key": estimate.service_key(
                declared,
                service,
                needs.image_id(declared.images[service.image], facts),
                facts["models"].get(service.model, NO_MODEL)["digest"] if facts else None,
            ),
            "history_folder": f"{settings.root}/state/history",
            "boot_records": facts["boot_records"].get(service.name, {}) if facts else {},
            "served_model_name": service.served_model_name,
            "model": service.model,
            "accelerator": settings.accelerator,
            "port": service.port,
            "route": changes.route_of(service),
            "engine_keys_file": f"{settings.root}/gateway/{gateway_keys.ENGINE_KEYS_FILE}",
            "boot_timeout": service.boot_timeout,
            "drain": service.drain,
            "args": service.args,
            "smoke": known(model.smoke, service.smoke, service.args, context=model.context, vision=bool(model.vision)),
            "warmup": service.warmup,
            "status": service.status,
            "state": service.state,
            "side_by_side": beside.fits,
            "side_by_side_why": beside.why,
        }
    )
    if with_files:
        rendered |= _plain({"facts": release.facts, "files": {**release.files, "compose.yml": _compose_text(release)}})
    return rendered


def _for_clients(declared: Declared, name: str, reached: str) -> dict[str, Any]:
    """What role client_config wants to know of a service. reached: name or address of the host."""
    service = declared.services[name]
    model = declared.models[service.model]
    told = programs.facts(service.served_model_name, service.args, model.context or 0, bool(model.vision))
    place = programs.Address(
        declared.settings.bind_address,
        reached,
        gateway_plan.setting(declared, "https_port"),
        gateway_plan.ports_address(declared),
        gateway_plan.known_as(declared, reached),
    )
    url = programs.url(place, name, service.port, gateway_plan.host_name(declared, name))
    return {"service": name, "url": url, "declared": told}


def image_job(declared: Declared, name: str, rendered: Mapping[str, compose.Release] | None = None) -> dict[str, Any]:
    """An image with its sources and proofs, and the same for the images it is built on.

    rendered: releases of the host's services. An image with proofs has to accept the command lines of those that use it.
    """
    image = declared.images[name]
    bases = {s["build"]["base"] for s in image.sources if "build" in s}
    users = {s: r for s, r in (rendered or {}).items() if image.proofs and declared.services[s].image == name}
    return {
        "name": name,
        "ref": compose.image_ref(image),
        "sources": list(image.sources),
        "proofs": image.proofs,
        "services": {
            s: {"argv": r.facts["command"], "env": r.facts["environment"], "files": r.files} for s, r in users.items()
        },
        "bases": [image_job(declared, b) for b in sorted(bases)],
    }


def _missing_models(declared: Declared, running: Iterable[str], facts: Facts | None) -> list[dict[str, Any]]:
    needed = needs.needed_models(declared, running)
    names = dict.fromkeys([*quantize_plan.sources(declared, needed, facts), *needed])
    return [job for job in _models(declared, names, facts) if not job["present"]]


def _models_here(declared: Declared, services: Iterable[str], facts: Facts | None) -> list[dict[str, Any]]:
    found = needs.models_to_verify(declared, facts, services)
    return [{**job, "fetch_missing": found[job["name"]]} for job in _models(declared, found, facts)]


def _models(declared: Declared, names: Iterable[str], facts: Facts | None) -> list[dict[str, Any]]:
    """What role model_store is given of these models."""
    have = facts["models"] if facts else {}
    jobs = []
    for name in names:
        model = declared.models[name]
        converters = {s["convert_with"] for s in model.sources if "convert_with" in s}
        jobs.append(
            {
                "name": name,
                "present": have.get(name, NO_MODEL)["present"],
                "revision": model.revision,
                "folder": compose.model_dir(declared.settings, model),
                "sources": list(model.sources),
                "size_gib": model.size_gib,
                "images": {i: compose.image_ref(declared.images[i]) for i in sorted(converters)},
                **({"quantize": quantize_plan.job(declared, model)} if quantize_plan.made_of(model) else {}),
            }
        )
    return list(_plain(jobs))


def _host_wants(declared: Declared) -> dict[str, Any]:
    """What module llm_host_facts is to look for."""
    services = declared.host_services
    models = needs.host_models(declared)
    return {
        "root": declared.settings.root,
        "images": sorted({compose.image_ref(i) for i in declared.images.values()}),
        "models": {m: compose.model_dir(declared.settings, declared.models[m]) for m in sorted(models)},
        "texts": sorted({t for m in models if (t := quantize_plan.text_file(declared, declared.models[m]))}),
        "services": list(services),
        "ports": sorted(
            {*(declared.services[s].port for s in placement.deployed(declared)), *gateway_plan.ports(declared)}
        ),
        "gateway": _plain(gateway_plan.settings(declared)),
        "gpus": declared.settings.accelerator == "nvidia",
    }


def _work(
    declared: Declared,
    facts: Facts,
    running: list[str],
    selected: Iterable[str],
    rendered: Mapping[str, compose.Release],
    reasons: Mapping[str, list[Reason]],
    predict: bool,
) -> dict[str, Any]:
    upcoming = {s: rendered[s].hash for s in reasons} if predict else {}
    orphans = placement.orphans(declared, facts)
    work: dict[str, Any] = _plain(
        {
            "deploy": [
                {
                    "name": s,
                    "reasons": why,
                    "restart": deploy.needs_restart(why),
                    "displaces": placement.displaces(declared, facts, s),
                }
                for s, why in reasons.items()
            ],
            "stale": deploy.stale(facts, running, reasons),
            "stop": changes.to_stop(declared, facts, selected, reasons),
            "orphans": [] if declared.settings.prune else orphans,
            "removed": orphans if declared.settings.prune else [],
            "prune_images": needs.images_to_remove(declared, facts, upcoming),
            "prune_models": store.unneeded(
                facts["stored_models"],
                [compose.model_dir(declared.settings, declared.models[m]) for m in needs.host_models(declared)],
                facts["release_models"],
            ),
            "prove": list(changes.to_prove(facts, running, rendered)),
            "routes": changes.routes(declared, facts, upcoming),
        }
    )
    return work
