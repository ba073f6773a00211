"""Option values in the grammar of tunnels.yaml."""

from __future__ import annotations

import click

from reconciler.config.schema.values import InvalidValueError, duration
from reconciler.config.syntax.nodes import Scalar


class _Duration(click.ParamType[float]):
    """Converts `500ms`, `10s`, `5m`, `1h` to seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return duration(Scalar(value, value))
        except InvalidValueError:
            self.fail(
                f"invalid duration {value!r}: expected a number and a unit, as in 500ms, 10s, 5m or 1h", param, ctx
            )


DURATION = _Duration()
