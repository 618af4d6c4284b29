"""What is sent along with a job: the working directory, without what a job does not need or must not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitwildmatch import GitWildMatchPattern

from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError

# Besides what .gitignore and .rayignore name, which Ray honours by itself. `ray job submit` knows only those two.
EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
    "/.local",
    "/build",
    "/data",
    "/dist",
)
# Ray keeps the package in its control store and refuses larger ones after having packed them.
LIMIT_BYTES = 512 * 2**20
# Settings and notes, into which credentials get copied, are smaller.
_SEARCHED_BYTES = 2**20


@dataclass
class Package:
    """The files below a folder that are sent along, and what is kept back because it holds secrets."""

    folder: Path
    secrets: tuple[str, ...] = ()
    files: list[Path] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    files_with_secrets: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, secrets: tuple[str, ...] = ()) -> Package:
        """Look through the folder. ``secrets`` are those of services on this machine.

        Raises :class:`UserError` where there is no such folder, or it is where services keep their state.
        """
        if not folder.is_dir():
            raise UserError(f"no such folder: --working-dir {folder}", exit_code=2)
        if _is_inside_state(folder.resolve()):
            raise UserError(f"--working-dir {folder} holds the state and credentials of services", exit_code=2)
        package = cls(folder, secrets)
        package._look_through(folder, [(folder, GitIgnoreSpec.from_lines(EXCLUDES))], set())
        return package

    @property
    def excludes(self) -> list[str]:
        """Patterns of what is not sent, as Ray takes them."""
        kept_back = (entry.relative_to(self.folder) for entry in (*self.states, *self.files_with_secrets))
        return [*EXCLUDES, *(f"/{GitWildMatchPattern.escape(str(path))}" for path in kept_back)]

    def require_size(self) -> int:
        """Bytes of the files. Raises :class:`UserError` if Ray would refuse them."""
        by_entry: dict[str, int] = {}
        for file in self.files:
            entry = file.relative_to(self.folder).parts[0]
            by_entry[entry] = by_entry.get(entry, 0) + file.lstat().st_size
        total = sum(by_entry.values())
        if total > LIMIT_BYTES:
            largest = sorted(by_entry, key=lambda entry: by_entry[entry], reverse=True)[:3]
            named = ", ".join(f"{entry} ({by_entry[entry] / 2**20:.0f} MB)" for entry in largest)
            raise UserError(
                f"{self.folder.resolve()} holds {total / 2**20:.0f} MB, more than the {LIMIT_BYTES // 2**20} MB that "
                f"Ray sends along with a job; the largest: {named}. Name what the job does not need in .rayignore"
            )
        return total

    def _look_through(self, folder: Path, patterns: list[tuple[Path, GitIgnoreSpec]], above: set[Path]) -> None:
        """Sort what is in one folder, as Ray goes through it: with its ignore files, and into links to folders."""
        patterns = [*patterns, *_ignore_files(folder)]
        above = above | {folder.resolve()}
        for entry in sorted(folder.iterdir()):
            if any(_names(entry, below, spec) for below, spec in patterns):
                continue
            if not entry.is_dir():
                (self.files_with_secrets if self._holds_secret(entry) else self.files).append(entry)
            elif StateFolder.at(entry).is_ours:
                self.states.append(entry)
            elif entry.resolve() not in above:  # else a link to where we are: Ray complains of it
                self._look_through(entry, patterns, above)

    def _holds_secret(self, file: Path) -> bool:
        try:
            if not self.secrets or not file.is_file() or file.stat().st_size > _SEARCHED_BYTES:
                return False
            content = file.read_bytes()
        except OSError:
            return False  # Ray says what it cannot read
        return any(secret.encode() in content for secret in self.secrets)


def _is_inside_state(folder: Path) -> bool:
    """Whether services keep what is in the folder. Where Ray unpacks packages, jobs of theirs may submit others."""
    states = [parent for parent in (folder, *folder.parents) if StateFolder(parent).is_ours]
    return any(folder.relative_to(state).parts[:1] != ("ray",) for state in states)


def _ignore_files(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    for name in (".gitignore", ".rayignore"):
        if (folder / name).is_file():
            yield folder, GitIgnoreSpec.from_lines((folder / name).read_text(errors="replace").splitlines())


def _names(entry: Path, below: Path, spec: GitIgnoreSpec) -> bool:
    return spec.match_file(str(entry.relative_to(below)) + ("/" if entry.is_dir() else ""))
