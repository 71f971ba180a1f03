"""Templates of roles, rendered without Ansible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from ansible.module_utils.llm.base import addresses
from ansible.module_utils.llm.declare.facts import Route
from ansible.module_utils.llm.declare.objects import Declared
from ansible.module_utils.llm.gateway import routes as gateway_routes
from ansible.module_utils.llm.plan import gateway as gateway_plan

from tests import catalogs


def template(role: str, name: str, **values: Any) -> str:
    """A role's template with these values; a value that is missing is an error."""
    loader = jinja2.FileSystemLoader(catalogs.ROOT / "roles" / role / "templates")
    strict = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    strict.filters |= {"llm_listing": gateway_routes.listing, "llm_in_url": addresses.in_url}
    return strict.get_template(name).render(values)


def gateway(declared: Declared, routes: Sequence[Route], name: str, **values: Any) -> str:
    """A template of role gateway for the settings of a declaration and these routes; `values` are the role's variables."""
    defaults, settings = catalogs.read("roles/gateway/defaults/main.yml"), gateway_plan.settings(declared)
    ports = [settings["https_port"], settings["http_port"], *(r["port"] for r in routes)]
    own = {f"_gateway_{k}": settings[f"{k}_port"] for k in ("https", "http")}
    own |= {"_gateway_ports_address": settings["ports_address"]}
    own |= {f"_gateway_{k}": settings[k] for k in ("wait", "body_limit", "connections")}
    own |= {"_gateway_backends": gateway_routes.backends(routes, settings["domain"]), "_gateway_ports": ports}
    own |= {
        "_gateway_buffer": gateway_plan.BUFFER,
        "_gateway_whole": gateway_plan.WHOLE,
        "_gateway_copies": 256,
        "_gateway_large": 1024,
        "_gateway_near": 8,
        "gateway_settings": settings,
    }
    given = {"gateway_routes": routes, "gateway_image": "haproxy:1", **values}
    return template("gateway", name, **{**defaults, **own, **given})
