"""The package's errors: one plain sentence each, naming the thing, its value and what was allowed.

The command line prints that sentence without a traceback and exits with `exit_code` (`--debug` shows the traceback).
"""

import difflib
from collections.abc import Iterable

MOST_NAMES = 20  # listed in a sentence


class BioplausError(Exception):
    """Something the user can mend: a name, a value, a file. Exit code 2."""

    exit_code = 2


class RunError(BioplausError):
    """A run was started and did not finish. Exit code 1."""

    exit_code = 1


def unknown(kind: str, name: object, known: Iterable[str], where: str = "") -> BioplausError:
    """The error for a name that is not in `known`, with the nearest match suggested; of many, the nearest are listed.

    Parameters
    ----------
    kind : what the name should have been, for instance "rule" or "parameter of rule ep".
    name : the name as given.
    known : every allowed name.
    where : optional place of the mistake (file, entry), put in front of the sentence.
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
    return BioplausError(f"{where + ': ' if where else ''}unknown {kind} {name!r}; {hint}Allowed: {allowed}.")


def _ratio(matcher: difflib.SequenceMatcher, name: str) -> float:
    matcher.set_seq1(name)
    return matcher.ratio()
