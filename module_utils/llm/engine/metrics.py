"""Metrics of engines, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One sample of the Prometheus text format."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


def parse_metrics(text: str) -> list[Sample]:
    """Read Prometheus' text exposition format (version 0.0.4); lines that are not samples are left out."""
    samples = []
    for line in text.splitlines():
        found = _SAMPLE.match(line.strip())
        if not found:
            continue
        try:
            value = float(found["value"].replace("Inf", "inf"))
        except ValueError:
            continue
        labels = {
            key: _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], raw)
            for key, raw in _LABEL.findall(found["labels"] or "")
        }
        samples.append(Sample(found["name"], value, labels))
    return samples


def metric_sum(samples: Iterable[Sample], name: str, **labels: str) -> float | None:
    """Add up all samples of a name whose labels hold the given values; None when there is none."""
    values = [
        sample.value
        for sample in samples
        if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
    ]
    return sum(values) if values else None
