"""Schemas of declarations, which the tables in `variables` fill: what a key takes, whether it is required, what it is for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible.module_utils.llm.base.spelling import did_you_mean
from ansible.module_utils.llm.declare import renamed, values
from ansible.module_utils.llm.declare.findings import Finding
from ansible.module_utils.llm.declare.values import Check, ListOf, MapOf, said, text


class Field(NamedTuple):
    """One key of a mapping. `about`: sentences for the reference, with the unit. `default`: only where declare.objects has none."""

    check: Check
    required: bool
    about: str
    default: Any = None


Schema = Mapping[str, Field]


@dataclasses.dataclass(frozen=True)
class Keys:
    """A mapping with the keys of `shape`. `also`: a check of the whole mapping, made when each of its keys is right."""

    shape: Schema
    also: Check | None = None

    def __call__(self, value: Any) -> str:
        """What is wrong with a value: judges a mapping by its keys."""
        return first_of(value_findings(value, self, ""))


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A mapping with exactly one of `kinds`, and `options` beside it."""

    kinds: Schema
    options: Schema = dataclasses.field(default_factory=dict)

    def __call__(self, value: Any) -> str:
        """What is wrong with a value: judges a mapping of one of several kinds."""
        return first_of(_source_findings(value, self, ""))


def pattern(value: Any) -> str:
    """A module's class or name, or a regular expression for its name after `re:`."""
    if problem := text(value):
        return problem
    try:
        re.compile(value.removeprefix("re:"))
    except re.error as error:
        return f"is no regular expression ({error}): {value!r}"
    return ""


def first_of(findings: Iterable[Finding]) -> str:
    """The first finding as one text, for a mapping inside another value."""
    for finding in findings:
        return f"`{finding.key.lstrip('.')}` {finding.message}" if finding.key else finding.message
    return ""


def schema_findings(value: Any, shape: Schema, key: str) -> list[Finding]:
    """Findings of a mapping against its shape: unknown and missing keys, values of the wrong kind."""
    if not isinstance(value, Mapping):
        return [_mistyped(key, f"must be a mapping, got {said(value)}", "Write keys below it")]
    found = []
    for entry_key, entry in value.items():
        where = f"{key}.{entry_key}"
        if entry_key in shape:
            found += value_findings(entry, shape[entry_key].check, where)
        else:
            found.append(_unknown_key(where, entry_key, shape))
    for wanted, declared in shape.items():
        if declared.required and wanted not in value:
            found.append(Finding("missing-key", "error", f"{key}.{wanted}", "is missing", f"Add `{wanted}`"))
    return found


def value_findings(value: Any, check: Check, key: str) -> list[Finding]:
    """Findings of one value. They name the innermost key that is wrong, so that its line is found."""
    if isinstance(check, Keys):
        found = schema_findings(value, check.shape, key)
        problem = check.also(value) if check.also and not found else ""
        return [_mistyped(key, problem)] if problem else found
    if isinstance(check, OneOf):
        return _source_findings(value, check, key)
    if (
        isinstance(check, (ListOf, MapOf))
        and isinstance(check.item, (Keys, OneOf))
        and not dataclasses.replace(check, item=values.anything)(value)
    ):
        items = value.items() if isinstance(check, MapOf) else enumerate(value)
        return [f for part, item in items for f in value_findings(item, check.item, f"{key}.{part}")]
    problem = check(value)
    return [_mistyped(key, problem)] if problem else []


def _source_findings(value: Any, check: OneOf, key: str) -> list[Finding]:
    shape = {**check.kinds, **check.options}
    found = schema_findings(value, shape, key)
    if not isinstance(value, Mapping) or any(f.id in ("unknown-key", "renamed-key") for f in found):
        return found  # the kind may be the misspelt key
    used = [kind for kind in check.kinds if kind in value]
    if len(used) != 1:
        message = f"must have exactly one of {', '.join(check.kinds)}, got {', '.join(used) or 'none'}"
        found.insert(0, _mistyped(key, message, "Make each a source of its own" if used else "Add one"))
    return found


def _mistyped(key: str, problem: str, remedy: str = "") -> Finding:
    return Finding("mistyped", "error", key, problem, remedy or f"Correct `{key.rpartition('.')[2]}`")


def _unknown_key(key: str, used: str, shape: Schema) -> Finding:
    message, remedy = renamed.successor(key)
    if message:
        return Finding("renamed-key", "error", key, message, remedy)
    return Finding("unknown-key", "error", key, "is not a known key", did_you_mean(used, shape))
