"""Templates of roles, rendered without Ansible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def gateway(
    declared: Declared,
    routes: Sequence[Route],
    name: str,
    others: Mapping[str, Any] | None = None,
    **variables: Any,
) -> str:
    """A template of role gateway for the settings of a declaration and these routes.

    others: what of the plan's values is to be another one. variables: the role's.
    """
    settings = gateway_plan.settings(declared)
    given = {"gateway_routes": routes, "gateway_image": "haproxy:1", "gateway_settings": settings, **variables}
    known = {**catalogs.read("roles/gateway/defaults/main.yml"), **given}
    values = gateway_plan.values(settings, routes, known["gateway_bind_address"])
    return template("gateway", name, **known, _gateway_values={**values, **(others or {})})
