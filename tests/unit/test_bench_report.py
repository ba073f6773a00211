"""The benchmarks' report and comparison: ratios to ssh, and what counts as worse."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.compare import Range, compare, is_worse
from bench.figures import Figures, Key
from bench.report import by_measurement, markdown, svg


def run(ours: list[float], ssh: list[float]) -> Figures:
    """Return the figures of a run with one measurement."""
    figures = Figures({"command": "make bench"})
    for program, values in (("tunnels", ours), ("ssh", ssh)):
        for value in values:
            figures.add(Key("throughput", "down", "MB/s", program, more_is_better=True), value)
    return figures


def test_the_table_has_medians_and_their_ratio_to_ssh() -> None:
    assert "| down | 300 (1.50x) | 200 |" in markdown(run([100, 300, 900], [200, 200, 200]))


def test_a_plot_is_well_formed_and_names_every_program() -> None:
    ((name, rows),) = by_measurement(run([100.0], [200.0])).items()
    texts = [text.text for text in ET.fromstring(svg(name, rows)).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - made here
    assert {"down", "tunnels 100", "ssh 200"} <= set(texts)


def test_stored_figures_are_read_back(tmp_path: Path) -> None:
    figures = run([1.5, 2.5], [3.5])
    figures.save(tmp_path / "figures.json")
    assert list(Figures.load(tmp_path / "figures.json")) == list(figures)


def test_a_machine_of_half_the_speed_is_not_a_regression() -> None:
    table, worse = compare(run([100, 101, 102], [50, 50, 50]), run([50, 51, 52], [25, 25, 25]))
    assert worse == 0
    assert "worse" not in table


def test_a_lower_ratio_to_ssh_is_a_regression() -> None:
    table, worse = compare(run([100, 101, 102], [50, 50, 50]), run([70, 71, 72], [50, 50, 50]))
    assert worse == 1
    assert "| throughput | down | 2.02 | 1.42 x of ssh | -30 % | worse |" in table


@pytest.mark.parametrize(
    ("old", "new", "more_is_better", "worse"),
    [
        (Range(100, 95, 105), Range(92, 90, 94), True, False),  # within the tolerance
        (Range(100, 50, 150), Range(80, 70, 90), True, False),  # within the spread
        (Range(100, 95, 105), Range(80, 70, 90), True, True),
        (Range(100, 95, 105), Range(120, 110, 130), True, False),
        (Range(100, 95, 105), Range(120, 110, 130), False, True),
    ],
)
def test_worse_is_beyond_the_tolerance_and_the_spread(
    old: Range, new: Range, *, more_is_better: bool, worse: bool
) -> None:
    assert is_worse(old, new, more_is_better=more_is_better) is worse
