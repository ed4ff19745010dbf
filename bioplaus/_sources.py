"""Digests of code: of a learning rule, which is its own file and all it is built from, and of the
whole package.
"""

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bioplaus import _files
from bioplaus.errors import BioplausError

# variable of the environment of kernels and workers: the package of the process that started them
PACKAGE = "BIOPLAUS_PACKAGE"


@cache
def package() -> str:
    """`<sha256>:<folder>` of this package: of all its modules, as they were at the first call."""
    folder = Path(__file__).resolve().parent
    files = sorted(folder.rglob("[!.]*.py"))
    lines = [f"{file.relative_to(folder)} {_files.sha256(file.read_bytes())}" for file in files]
    return f"{_files.sha256(chr(10).join(lines).encode())}:{folder}"


def check_package(expected: str) -> None:
    """Raise `BioplausError` unless this package is the `expected` one (`package` of another
    process): it lies in the same folder, or its modules have the same content.
    """
    digest, _, folder = expected.partition(":")
    here = Path(__file__).resolve().parent
    if str(here) != folder and package().partition(":")[0] != digest:
        raise BioplausError(
            f"bioplaus was imported from {here} here, but the command runs the other code in"
            f" {folder}; install that one here too, or run the command from the folder of this one."
        )


def code(source: str | Path, package: Path | None = None) -> str | None:
    """sha256 of a learning rule's code: its own file, that of its fast form, and all they are built
    from in `bioplaus.rules` and `bioplaus.nets`.

    These are the files that it imports from there, directly or through one another: what it
    inherits, and also the functions, optimisers and networks it uses. Nothing is imported to find
    them. A comment or a docstring is part of the digest: whether a change matters is not for a
    program to decide.

    Parameters
    ----------
    source : a rule's key, or the path of a file that defines one, in its plain or its fast form.
    package : the folder of another version of this package; None: this one.

    Returns
    -------
    None where there is no such file.
    """
    files = sources(source, package)
    return digest_of(files, package) if files else None


def sources(source: str | Path, package: Path | None = None) -> dict[Path, str]:
    """The files that `code` is of, a rule's own first, each with its sha256; empty where there is
    no such rule.
    """
    package = package or Path(__file__).resolve().parent
    path = source.resolve() if isinstance(source, Path) else package / "rules" / f"{source}.py"
    if not path.is_file() or (isinstance(source, str) and not source.isidentifier()):
        return {}
    folder = package / "rules"
    if path.parent == folder / "_fast":
        path = folder / path.name
    files: dict[Path, str] = {}
    todo = [path]
    if path.parent == folder and (fast := folder / "_fast" / path.name).is_file():
        todo = [fast, path]
    while todo:
        path = todo.pop()
        if path not in files:
            files[path], imported = _source(path, path.stat().st_mtime_ns, package)
            todo += imported
    return files


def digest_of(files: Mapping[Path, str], package: Path | None = None) -> str:
    """What `code` gives for these `sources`."""
    package = package or Path(__file__).resolve().parent
    own, *others = files.items()
    digests = [own[1], *sorted(f"{path.relative_to(package)} {digest}" for path, digest in others)]
    # its own without its path, whatever its folder is called
    return _files.sha256("\n".join(digests).encode())


@cache
def _source(path: Path, changed: int, package: Path) -> tuple[str, tuple[Path, ...]]:
    """The sha256 of a file, and the files of `rules` and `nets` that it imports; read again only
    after it `changed`.
    """
    content = path.read_bytes()
    try:
        statements = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):
        statements = []
    names = [
        f"{_module(node, path, package)}.{one.name}"
        for node in statements
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    ]
    names += [one.name for node in statements if isinstance(node, ast.Import) for one in node.names]
    imported = []
    for name in names:
        root, *parts = name.split(".")
        if root == "bioplaus" and parts[:1] in (["rules"], ["nets"]):
            # the last part may be a function
            module, parent = package.joinpath(*parts), package.joinpath(*parts[:-1])
            candidates = (
                module.with_suffix(".py"),
                module / "__init__.py",
                parent.with_suffix(".py"),
                parent / "__init__.py",
            )
            imported += [candidate for candidate in candidates if candidate.is_file()][:1]
    return _files.sha256(content), tuple(dict.fromkeys(imported))


def _module(node: ast.ImportFrom, path: Path, package: Path) -> str:
    """The full name of the module that `from ... import` in the file `path` names; one dot is the
    file's own folder.
    """
    if not node.level or not path.is_relative_to(package):
        return node.module or ""
    folders = path.relative_to(package.parent).parts[: -node.level]
    return ".".join([*folders, *filter(None, [node.module])])
