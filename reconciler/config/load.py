"""Loads files to the desired state. A bad file keeps its last good content; the others are applied.

Input: the paths of the command line, the environment, options. Output: `Loaded`: the desired state, the problems, and
which files are valid. `Config` keeps the last good content between reloads; `load_files` and `load_text` load once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reconciler.config.build.merge import Document
from reconciler.config.deadline import TooLongError, within
from reconciler.config.diagnostics import bounded
from reconciler.config.last_good import Candidate, LastGood
from reconciler.config.named_files import named_files
from reconciler.config.options import Options
from reconciler.config.policy_file import NO_POLICY, PolicyFile, PolicyState
from reconciler.config.problem import ConfigError, ErrorCode, Location, Problem, by_place
from reconciler.config.schema.document import known_words
from reconciler.config.schema.unparsed_paths import may_follow, unparsed_paths_in
from reconciler.config.schema.variables import Variables
from reconciler.config.schema.violations import violations
from reconciler.config.settle import settle
from reconciler.config.syntax.config_files import Found, Listing, default_paths, digest, listing, read_all, revision
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS, read
from reconciler.core.spec import NOTHING, Desired
from reconciler.core.text.forms import and_more
from reconciler.system.redaction import Redactor

_SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file of the latest load. `error` has its first problems; "" if it is valid.

    If a directory cannot be read, its known files are not valid. If it has none, the directory is listed itself.
    """

    path: str
    valid: bool
    error: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of one load.

    desired       the desired state, in which bad files have their last good content
    files         each file, and whether its present content is in `desired`
    errors, warnings   sorted by place, with a limit for each file
    revision      the revision of the content that `desired` was made from; "" for none
    rejected      the revision of the content that was read, if `desired` was not made from it; otherwise ""
    broken        maps a target, or the id of a tunnel, to the reason that it cannot be used although its file is valid
                  (a variable is not set); it is in `desired`, off
    places        maps the id of each tunnel of `desired` to the place of its definition
    watched       the files that the specs name (keys, certificates, passwords, known hosts), to watch for changes
    policy        the policy file, None without one
    hidden        the values of variables that the files use, which are never shown as long as this object exists
    """

    desired: Desired
    files: tuple[FileResult, ...]
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    revision: str
    rejected: str
    broken: Mapping[str, str]
    places: Mapping[str, Location]
    watched: frozenset[str]
    hidden: Redactor = field(compare=False)
    policy: FileResult | None = None

    @property
    def valid(self) -> bool:
        """Return True if there are no errors."""
        return not self.errors

    @property
    def unread(self) -> frozenset[str]:
        """Return the files and directories that could not be read."""
        return frozenset(problem.file for problem in self.errors if problem.code is ErrorCode.UNREADABLE)

    @property
    def usable(self) -> bool:
        """Return True if at least one file is valid, which a start without --strict requires."""
        return any(result.valid for result in self.files)


class Config:
    """The configuration of one process, which can be reloaded. Without paths, it uses the first default path found."""

    def __init__(
        self,
        paths: Sequence[str | Path] = (),
        *,
        environ: Mapping[str, str],
        options: Options | None = None,
        policy: PolicyFile | None = None,
    ) -> None:
        self.paths = tuple(map(str, paths))
        self.environ = environ
        self.policy = policy
        options = options or Options()
        self.hidden = options.hidden or Redactor(known_words())
        self.options = replace(options, hidden=self.hidden)
        self._good: dict[str, Document] = {}
        self._arguments: dict[str, str] = {}  # by file: the path argument that it comes from
        self._pipes: set[str] = set()  # path arguments that were pipes
        self._parsed: dict[str, Candidate] = {}
        self._desired = NOTHING
        self._broken: Mapping[str, str] = {}
        self._places: Mapping[str, Location] = {}

    def reload(self) -> Loaded:
        """Read everything again. Blocks as long as the disk does. Raises nothing, whatever the content."""
        self.paths = self.paths or default_paths(self.environ)
        self.options = replace(self.options, paths=self.paths)
        problems = []
        if not self.paths:
            message = (
                "no configuration found in $TUNNELS_CONFIG, ./tunnels.yaml or $XDG_CONFIG_HOME/tunnels/: name a file"
            )
            problems.append(Problem.at(Location(""), message, ErrorCode.UNREADABLE))
        candidates = {c.name: c for path in self.paths for c in self._candidates(self.listing(path))}
        return self._settle(candidates, problems)

    def listing(self, path: str) -> Listing:
        """Return the files of a path argument. The policy file is none of them, also if it is in the directory."""
        return listing(path, but=self.policy.place if self.policy else "")

    def load(self, found: Iterable[Found]) -> Loaded:
        """Load these files as the whole configuration."""
        return self._settle({one.name: self._parse(one) for one in found}, [])

    def _candidates(self, found: Listing) -> Iterable[Candidate]:
        known = [name for name, given in self._arguments.items() if given == found.given]
        if found.given in self._pipes and known:
            yield from (self._kept(name) for name in known)  # a pipe can be read only once
            return
        files = read_all(found)
        self._pipes |= {found.given for file in files if file.once}
        read = [self._parse(file) for file in files]
        unreadable: tuple[Problem, ...] = (found.problem,) if found.problem is not None else ()
        if known and found.given not in known and found.names == (found.given,) and read[0].document is None:
            # A removed directory looks like a missing file. Either way nothing is known about its files.
            unreadable, read = read[0].problems, []
        for candidate in read:
            if candidate.document is not None:
                self._arguments[candidate.name] = found.given
            yield candidate
        if unreadable and not known:
            yield Candidate(found.given, None, unreadable, "")
        for name in known:
            if name not in found.names:
                yield self._kept(name, unreadable) if unreadable else Candidate(name, None, (), "", absent=True)

    def _kept(self, name: str, problems: tuple[Problem, ...] = ()) -> Candidate:
        """Return the last good content of a file that cannot be read now."""
        good = self._good.get(name)
        return Candidate(name, good, problems, good.digest if good else "")

    def _parse(self, found: Found) -> Candidate:
        """Parse a file. The result is the identical object as long as the bytes are the same."""
        if found.problem is not None:
            return Candidate(found.name, None, (found.problem,), "")
        content = digest(found.data)
        before = self._parsed.get(found.name)
        if before is not None and before.digest == content:
            return before
        self._parsed[found.name] = candidate = self._parse_bytes(found, content)
        return candidate

    def _parse_bytes(self, found: Found, content: str) -> Candidate:
        try:
            with within(self.options.seconds):
                return self._parse_content(found, content)
        except ConfigError as error:
            return Candidate(found.name, None, error.problems, content)
        except TooLongError as error:
            return Candidate(found.name, None, (_too_long(found.name, error),), content)

    def _parse_content(self, found: Found, content: str) -> Candidate:
        raw, problems = read(found.data, found.name)
        root, wrong = Variables(self.environ, self.options).expand(raw, found.name)
        gaps = unparsed_paths_in(raw)
        problems += wrong
        problems += (problem for problem in violations(root, found.name) if not may_follow(problem, gaps))
        kept = by_place(problems)[: MAX_PROBLEMS + 1]  # the last one shows that there are more
        return Candidate(found.name, Document(found.name, found.directory, root, content, gaps), kept, content)

    def _settle(self, candidates: dict[str, Candidate], problems: Sequence[Problem]) -> Loaded:
        state = self.policy.read() if self.policy else NO_POLICY
        options = replace(self.options, policy=state.policy)
        usable = self.policy is None or state.policy is not None
        problems = [*problems, *state.problems]
        settled = settle(candidates, self._good, problems, self.environ, options, usable=usable)
        if (applied := settled.applied) is not None:
            self._desired = applied.desired.sharing(self._desired)
            self._broken = applied.broken
            self._places = applied.places
            self._good = {document.file: document for document in settled.choice.documents()}
        self._forget_absent(candidates)
        return self._loaded(settled.choice, settled.errors, settled.warnings, state)

    def _forget_absent(self, candidates: Mapping[str, Candidate]) -> None:
        for name, candidate in candidates.items():
            if candidate.absent and name not in self._good:
                self._arguments.pop(name, None)
                self._parsed.pop(name, None)

    def _loaded(
        self, choice: LastGood, errors: Iterable[Problem], warnings: Iterable[Problem], policy: PolicyState
    ) -> Loaded:
        self.hidden.keep(_names(self._desired))
        listed = bounded(errors)
        present = [c for c in choice.candidates.values() if not c.absent or c.name in choice.rejected]
        applied = revision(document.digest for document in self._good.values())
        kept = {document.file: document.digest for document in self._good.values()}
        there = (c.digest or kept.get(c.name, "") for c in choice.candidates.values() if not c.absent)
        seen = revision(content for content in there if content)
        return Loaded(
            desired=self._desired,
            files=tuple(_result(c, listed, valid=c.name not in choice.rejected) for c in present),
            errors=listed,
            warnings=bounded(warnings),
            revision=applied,
            rejected=seen if listed and seen != applied else "",
            broken=self._broken,
            places=self._places,
            watched=named_files(self._desired),
            hidden=self.hidden,
            policy=_policy_result(self.policy, policy),
        )


def load_files(
    paths: Sequence[str | Path] = (),
    *,
    environ: Mapping[str, str],
    options: Options | None = None,
    policy: PolicyFile | None = None,
) -> Loaded:
    """Load once. A bad file is left out, because it has no last good content."""
    return Config(paths, environ=environ, options=options, policy=policy).reload()


def load_text(
    text: str | bytes,
    name: str = "tunnels.yaml",
    *,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    directory: str = "/",
) -> Loaded:
    """Load one file from memory. Its relative paths start from `directory`."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    config = Config((), environ={} if environ is None else environ, options=options)
    return config.load([Found(name, directory, data)])


def _too_long(name: str, error: TooLongError) -> Problem:
    return Problem.at(Location(name), str(error), ErrorCode.VALUE)


def _names(desired: Desired) -> set[str]:
    """Return the names and ids of targets and tunnels, which are shown unredacted."""
    return {*desired.targets, *desired.tunnels, *(tunnel.name for tunnel in desired.tunnels.values())}


def _policy_result(file: PolicyFile | None, state: PolicyState) -> FileResult | None:
    if file is None:
        return None
    error = and_more(list(map(str, state.problems)), _SHOWN_ERRORS, "; ")
    return FileResult(file.path, valid=not error, error=error)


def _result(candidate: Candidate, errors: Iterable[Problem], *, valid: bool) -> FileResult:
    name, known = candidate.name, frozenset(candidate.problems)  # files of one directory share its problem
    own = [str(problem) for problem in errors if problem.file == name or problem in known]
    own = own or [str(problem) for problem in errors if problem.other == name]
    if valid:
        return FileResult(name, valid=True, error="")
    error = and_more(own, _SHOWN_ERRORS, "; ") or "not applied: see the errors of the policy and of other files"
    return FileResult(name, valid=False, error=error)
