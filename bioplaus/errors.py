"""The package's errors: one plain sentence each, naming the thing, its value and what was allowed.

The command line prints that sentence without a traceback and exits with `exit_code` (`--debug`
shows the traceback).
"""

import contextlib
import difflib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_NAMES = 20  # listed in a sentence
# as torch, numpy, Python and the system say it, on a GPU or not
_NO_MEMORY = re.compile(
    r"MemoryError|OutOfMemory|out of memory|not enough memory|unable to allocate|bad_alloc"
    r"|can(no|')t allocate memory",
    re.IGNORECASE,
)


class BioplausError(Exception):
    """Something the user can mend: a name, a value, a file. Exit code 2."""

    exit_code = 2


class RunError(BioplausError):
    """A run was started and did not finish. Exit code 1."""

    exit_code = 1


def unknown(kind: str, name: object, known: Iterable[str], context: str = "") -> BioplausError:
    """The error for a name that is not in `known`, with the nearest match suggested; of many, the
    nearest are listed.

    Parameters
    ----------
    kind : what the name should have been, for instance "rule" or "parameter of rule ep".
    name : the name as given.
    known : every allowed name.
    context : optional position of the mistake (file, entry), put in front of the sentence.
    """
    known = sorted(known)
    lower = {each.lower(): each for each in reversed(known)}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    if len(known) > MOST_NAMES:
        matcher = difflib.SequenceMatcher(b=str(name).lower())
        nearest = sorted(known, key=lambda each: (-_ratio(matcher, each.lower()), each))
        known = [*nearest[:MOST_NAMES], f"and {len(known) - MOST_NAMES} more"]
    allowed = ", ".join(known) if known else "none"
    return BioplausError(
        f"{context + ': ' if context else ''}unknown {kind} {name!r}; {hint}Allowed: {allowed}."
    )


def describe(error: BaseException) -> str:
    """The sentence of a `BioplausError`; of any other error its kind and the first line of what it
    says, and what to do where memory ran out.
    """
    if isinstance(error, BioplausError):
        return str(error)
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    return summary(type(error).__name__, text)


def summary(kind: str, text: str) -> str:
    """The kind of an error and the first line of its text, and what to do where memory ran out."""
    first = f"{kind}: {text.strip()}".splitlines()[0].removesuffix(": ")
    if is_out_of_memory(f"{kind}: {text}"):
        first += "; use a smaller batch_size or network, or fewer WORKERS"
    return first


def is_out_of_memory(text: str) -> bool:
    """Whether an error that says this ran out of memory."""
    return _NO_MEMORY.search(text) is not None


def missing_package(error: ModuleNotFoundError) -> BioplausError | None:
    """The error for a package that is not installed; None for a module of Python or of bioplaus,
    which is a fault of another kind.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package == "bioplaus" or package in sys.stdlib_module_names:
        return None
    extra = "cluster" if package == "dask_jobqueue" else "lab"
    return BioplausError(
        f"This needs the package {package}, which is not installed; install what belongs to it with"
        f" `pip install -e '.[{extra}]'` in a clone of the project."
    )


@contextlib.contextmanager
def extra() -> Iterator[None]:
    """Around imports of packages that `import bioplaus` does not need.

    Raises
    ------
    BioplausError
        Where one is not installed; the extra that holds it is named.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from None


def location(error: BaseException) -> str:
    """The innermost line outside libraries that an error came from, as in "ep.py, line 47, in
    fit_batch"; or nothing.

    A file that Python could not read is the location of its `SyntaxError`.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library(frame.filename):
            function = "" if frame.name.startswith("<") else f", in {frame.name}"
            return f"{Path(frame.filename).name}, line {frame.lineno}{function}"
    return ""


def is_library(file: str) -> bool:
    """Whether a source file is of Python or an installed package, this one aside."""
    paths = sysconfig.get_paths()
    libraries = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    is_ours = file.startswith(str(Path(__file__).parent))
    return file.startswith("<") or (file.startswith(libraries) and not is_ours)


def _ratio(matcher: difflib.SequenceMatcher, name: str) -> float:
    matcher.set_seq1(name)
    return matcher.ratio()
