"""Property lists of launchd: launchd.plist(5)."""

from __future__ import annotations

import plistlib
from xml.parsers.expat import ExpatError

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers.container import exec_form
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.programs.wrappers import user_note
from reconciler.cli.ssh_import.sources.values import Argument, Launch


def read(collector: Collector, source: Source) -> None:
    label = f"{source.name} ProgramArguments".lstrip()
    end = source.text.rfind("</plist>")
    text = source.text[max(source.text.find("<plist"), 0) : end + len("</plist>") if end >= 0 else None]
    try:
        job = plistlib.loads(text.encode("utf-8", "replace"), fmt=plistlib.FMT_XML)
    except (ExpatError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        collector.say(f"{label}: the property list is not valid: check it with `plutil -lint`")
        return
    if not isinstance(job, dict):
        return
    listed, program = job.get("ProgramArguments"), job.get("Program")
    words = [str(word) for word in listed] if isinstance(listed, list) else []
    if isinstance(program, str):
        words[:1] = [program]
    variables = job.get("EnvironmentVariables")
    environment = {str(name): Argument(str(value)) for name, value in _items(variables)}
    user = job.get("UserName")
    notes = user_note(user) if isinstance(user, str) else ()
    if words:
        collector.take(Launch(label, tuple(exec_form(words)), environment, notes))


def _items(value: object) -> list[tuple[object, object]]:
    return list(value.items()) if isinstance(value, dict) else []
