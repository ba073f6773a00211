"""The page of the metrics: names, types, labels and meanings, as a process with one of everything reports them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from generate.markdown import code, page, table
from generate.sample import sample
from reconciler.core.observed import Reason
from reconciler.report.metrics import Metrics
from reconciler.report.snapshot import Snapshot

_OF_THE_LIBRARY = ("process_", "python_")
_LISTED_MAX = 8  # values of a label
_INTRODUCTION = """\
`/metrics` has these series, as Prometheus text or OpenMetrics. Label values come from the files, never from clients.
The series of a tunnel start at 0 when the tunnel is added, and end when it is removed and drained. Failures by `reason`
appear when they happen. The series of the library prometheus_client follow: `process_*` and `python_*`. None of the
names here changes without an entry in the CHANGELOG ([contract](../contract.md#metrics)).
"""


def families() -> list[Metric]:
    """Return every metric family, with one sample for each combination of label values."""
    text, _ = Metrics(["team"]).page(sample(Snapshot), "text/plain")
    return list(text_string_to_metric_families(text.decode()))


def metrics() -> str:
    """Return the page as Markdown."""
    found = families()
    tunnels = [one for one in found if one.name.startswith("ssh_tunnel_")]
    targets = [one for one in found if one.name.startswith("ssh_target_")]
    others = [one for one in found if one not in (*tunnels, *targets) and not one.name.startswith(_OF_THE_LIBRARY)]
    parts = (
        f"## Tunnels\n\nOf each tunnel, with the labels `target`, `tunnel` and `type`.\n\n{_table(tunnels)}",
        f"## Targets\n\nOf each target, with the label `target`.\n\n{_table(targets)}",
        f"## The process\n\n{_table(others)}",
    )
    return page("Metrics", _INTRODUCTION, *parts)


def _table(found: Iterable[Metric]) -> str:
    rows = ((f"`{_name(one)}`", one.type, ", ".join(_labels(one)), one.documentation) for one in found)
    return table(("name", "type", "labels", "meaning"), rows)


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> Iterator[str]:
    values: dict[str, dict[str, None]] = {}
    for one in family.samples:
        for label, value in one.labels.items():
            values.setdefault(label, {})[value] = None
    values.pop("le", None)
    for label, found in values.items():
        shown = "label_*" if label.startswith("label_") else label
        if set(found) == set(Reason):
            yield f"`{shown}` ([reasons](reasons.md))"
        elif 1 < len(found) <= _LISTED_MAX:
            yield f"`{shown}` ({code(found)})"
        else:
            yield f"`{shown}`"
