"""Scrapes metrics and looks up samples."""

from __future__ import annotations

import subprocess

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from support.endpoints import Client

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Scraped:
    """The samples of one scrape."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.text = text
        parse = parse_openmetrics if openmetrics else parse_text
        self.samples = [sample for family in parse(text) for sample in family.samples]

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the value of each series with this name and at least these labels."""
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the only such series."""
        [value] = self.values(name, **labels)
        return value

    def labels(self, name: str) -> list[dict[str, str]]:
        return [s.labels for s in self.samples if s.name == name]


async def scrape(client: Client, accept: str = "") -> Scraped:
    status, text = await client.text("/metrics", **({"Accept": accept} if accept else {}))
    assert status == 200
    return Scraped(text, openmetrics="openmetrics" in accept)


def complaints(text: str) -> str:
    """Return the output of `promtool check metrics` for a page."""
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    return checked.stdout + checked.stderr
