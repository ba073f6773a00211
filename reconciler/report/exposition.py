"""Writes the text formats of Prometheus and OpenMetrics, fast enough for tens of thousands of samples.

prometheus_client takes 20 us for each sample, so that a scrape of 1,000 tunnels would last half a second
(tests/bench/scrape.py). This module implements only the part of the formats that our metrics use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from reconciler.core.histogram import Distribution

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_VERSIONS = (None, "1.0.0", '"1.0.0"')  # a range without a version takes any
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")  # RFC 9110, section 12.4.2

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Sample = tuple[str, float]  # the labels as `labels` formats them, and the value


def content_type(accept: str) -> str:
    """Return `OPENMETRICS` if the Accept header prefers it, `TEXT` otherwise.

    A range with an unknown version, a weight of 0 or a malformed weight does not count. At equal weights OpenMetrics
    wins, because a scraper that does not understand it does not name it.
    """
    openmetrics = text = 0.0
    for media_range in accept.split(","):
        name, *rest = (part.strip() for part in media_range.split(";"))
        parameters = {key.strip().lower(): value.strip() for key, _, value in (one.partition("=") for one in rest)}
        weight = parameters.get("q", "1")
        if not _WEIGHT.fullmatch(weight):
            continue
        match name.lower():
            case "application/openmetrics-text" if parameters.get("version") in _OPENMETRICS_VERSIONS:
                openmetrics = max(openmetrics, float(weight))
            case "text/plain":
                text = max(text, float(weight))
            case _:
                pass
    return OPENMETRICS if openmetrics > 0 and openmetrics >= text else TEXT


def labels(pairs: Mapping[str, str]) -> str:
    """Format labels: `target="prod",tunnel="pg"`."""
    return ",".join(f'{name}="{_text(value).translate(_ESCAPES)}"' for name, value in pairs.items())


def _text(value: str) -> str:
    """Escape what is not valid UTF-8: file names need not be."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


class Page:
    """The response to one scrape, built one metric family at a time."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._lines: list[str] = []

    def text(self) -> str:
        """Return the text so far, without the final `# EOF` line of OpenMetrics."""
        return "".join(self._lines)

    def gauge(self, name: str, description: str, samples: Iterable[Sample]) -> None:
        self._head(name, "gauge", description)
        self._samples(name, samples)

    def counter(self, name: str, description: str, samples: Iterable[Sample]) -> None:
        """Add a counter. `name` ends in `_total`, which OpenMetrics puts in the samples and not in the family name."""
        self._head(name.removesuffix("_total") if self._openmetrics else name, "counter", description)
        self._samples(name, samples)

    def histogram(self, name: str, description: str, samples: Iterable[tuple[str, Distribution]]) -> None:
        self._head(name, "histogram", description)
        for text, found in samples:
            comma = "," if text else ""
            bounds = [*map(str, found.bounds), "+Inf"]
            self._samples(
                f"{name}_bucket",
                ((f'{text}{comma}le="{bound}"', n) for bound, n in zip(bounds, found.counts, strict=True)),
            )
            self._samples(f"{name}_count", [(text, found.count)])
            self._samples(f"{name}_sum", [(text, found.total)])

    def _head(self, name: str, kind: str, description: str) -> None:
        self._lines.append(f"# HELP {name} {description}\n# TYPE {name} {kind}\n")

    def _samples(self, name: str, samples: Iterable[Sample]) -> None:
        self._lines += [f"{name}{{{text}}} {value}\n" if text else f"{name} {value}\n" for text, value in samples]
