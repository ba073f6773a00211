"""The dashboard, the alerts and the scrape configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMETHEUS = EXAMPLES / "prometheus"
DASHBOARD = EXAMPLES / "grafana" / "dashboard.json"
RUNBOOK = EXAMPLES.parent / "docs" / "runbook.md"

# The metrics of docs/contract.md.
METRICS = {
    "ssh_tunnel_up",
    "ssh_tunnel_phase",
    "ssh_tunnel_active_connections",
    "ssh_tunnel_held_connections",
    "ssh_tunnel_last_transition_timestamp_seconds",
    "ssh_tunnel_expiry_timestamp_seconds",
    "ssh_tunnel_probe_success",
    "ssh_tunnel_info",
    "ssh_tunnel_bytes_total",
    "ssh_tunnel_connections_total",
    "ssh_tunnel_failures_total",
    "ssh_tunnel_reconnects_total",
    "ssh_target_up",
    "ssh_target_rtt_seconds",
    "ssh_target_host_key_verified",
    "ssh_target_certificate_expiry_timestamp_seconds",
    "ssh_target_reconnects_total",
    "ssh_target_failures_total",
    "tunnels_config_last_reload_successful",
    "tunnels_config_last_reload_success_timestamp_seconds",
    "tunnels_config_file_valid",
    "tunnels_config_info",
    "tunnels_config_watch_active",
    "tunnels_configured",
    "tunnels_shards",
    "tunnels_build_info",
    "tunnels_event_loop_lag_seconds",
    "tunnels_config_reloads_total",
} | {
    f"{histogram}_{part}"
    for histogram in (
        "ssh_target_connect_duration_seconds",
        "ssh_target_dial_duration_seconds",
        "ssh_target_probe_duration_seconds",
        "tunnels_reconcile_duration_seconds",
    )
    for part in ("bucket", "sum", "count")
}
_NAME = re.compile(r"\b(?:ssh|tunnels)_[a-z0-9_]+")


def promtool(*arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: tests/system-packages.sh installs it (Debian: prometheus)")
    done = subprocess.run(
        [program, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_scrape_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", "rules.yml")


def test_the_rules_fire_when_they_should_and_not_otherwise() -> None:
    promtool("test", "rules", "rules_test.yml")


def test_each_alert_has_a_test() -> None:
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    fired = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]}
    assert fired == {rule["alert"] for rule in alerts()}


def test_each_query_in_the_documentation_has_a_test() -> None:
    text = (EXAMPLES.parent / "docs" / "shards.md").read_text()
    queries = {query.strip() for query in re.findall(r"^```promql$(.*?)^```$", text, re.DOTALL | re.MULTILINE)}
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    assert queries == {one["expr"] for case in cases for one in case.get("promql_expr_test", ())}


def strings(value: Any, key: str) -> Iterator[str]:
    """Yield every text under this key, at any depth."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name == key and isinstance(one, str):
                yield one
            yield from strings(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one, key)


@pytest.mark.parametrize("file", ["grafana/dashboard.json", "prometheus/rules.yml", "prometheus/rules_test.yml"])
def test_every_metric_that_is_used_exists(file: str) -> None:
    content = yaml.safe_load((EXAMPLES / file).read_text())
    used = {
        name for key in ("expr", "query", "series") for text in strings(content, key) for name in _NAME.findall(text)
    }
    assert used
    assert used <= METRICS


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def headings(page: Path) -> set[str]:
    """Return the anchors of the sections of a page, as GitHub names them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one).replace(" ", "-").lower() for one in found}


@pytest.mark.parametrize("alert", [rule["alert"] for rule in alerts()])
def test_each_alert_links_to_its_section_of_the_runbook(alert: str) -> None:
    (rule,) = (one for one in alerts() if one["alert"] == alert)
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert anchor == alert.lower()
    assert anchor in headings(EXAMPLES.parent / page)


def test_the_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    names = re.findall(r"^## (Tunnel\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert names == [rule["alert"] for rule in alerts()]


def test_the_command_in_the_rules_makes_absolute_links(tmp_path: Path) -> None:
    """A pager shows the link away from the repository."""
    rules = tmp_path / "rules.yml"
    rules.write_text((PROMETHEUS / "rules.yml").read_text())
    (command,) = re.findall(r"^# +(sed .*)$", rules.read_text(), re.MULTILINE)
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    links = set(strings(yaml.safe_load(rules.read_text()), "runbook_url"))
    assert len(links) == len(alerts())
    assert all(link.startswith("https://git.example.com/tunnels/blob/main/docs/runbook.md#") for link in links)


def test_the_dashboard_has_variables_for_source_instance_target_and_tunnel() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = [one["name"] for one in dashboard["templating"]["list"]]
    assert variables == ["datasource", "instance", "target", "tunnel"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_panel_of_the_dashboard_has_a_description() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert [panel["title"] for panel in panels if not panel.get("description", "").endswith(".")] == []


def test_every_query_of_the_dashboard_selects_the_instance() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [*strings(dashboard, "expr"), *strings(dashboard, "query")]
    for query in queries:
        selectors = re.findall(r"\b(?:ssh|tunnels)_\w+(.{22})?", query)
        if query != "label_values(tunnels_build_info, instance)":
            assert all(one.startswith('{instance=~"$instance"') for one in selectors), query


def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    expressions = set(strings(json.loads(DASHBOARD.read_text()), "expr"))
    named = enumerate(one.replace("$__rate_interval", "5m") for one in sorted(expressions))
    rules = [{"record": f"query_{number}", "expr": expression} for number, expression in named]
    assert rules
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_no_panels_of_the_dashboard_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
