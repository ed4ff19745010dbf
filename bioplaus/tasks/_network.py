"""Files from the network: fetched into a scratch folder with limits on size and time, checked, and
only then moved to where they belong.
"""

import hashlib
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from bioplaus.errors import BioplausError, extra
from bioplaus.tasks import _idx

QUIET = 20.0  # seconds in which LEAST_RATE is asked for; also of silence
LEAST_RATE = 1_000  # bytes a second; below it, a download is given up
LEAST_MEAN = 50_000  # bytes a second over the whole of a download
MOST_UNPACKED = 200_000_000  # bytes of one file of an archive
_PART = 2**16  # bytes read at once


def fetch(url: str, path: Path, *, most: int, quiet: float = QUIET) -> None:
    """Download `url` to `path`, with a bar on a terminal.

    A thread reads, this one watches: so a server that sends a byte now and then, or a header that
    never ends, holds nobody for longer than `quiet` seconds.

    Parameters
    ----------
    most : bytes; the size that the file is known to have, or a bound of it.
    quiet : seconds in which at least `quiet * LEAST_RATE` bytes must come.

    Raises
    ------
    OSError, http.client.HTTPException
        If the server cannot be reached, refuses, cuts the line, or is too slow (TimeoutError).
    BioplausError
        If it sends more than `most` bytes.
    """
    with extra():
        from tqdm.auto import tqdm

    transfer = _Transfer(url, path, most, quiet)
    transfer.start()
    started = window = time.monotonic()
    n_before = 0
    with tqdm(total=None, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
        while transfer.is_alive():
            transfer.join(0.05)
            now = time.monotonic()
            bar.update(transfer.n_bytes - bar.n)
            if now - window >= quiet and transfer.is_alive():
                n_new = transfer.n_bytes - n_before
                if n_new < quiet * LEAST_RATE:
                    transfer.is_given_up = True
                    raise TimeoutError(f"{url} sent only {n_new:,} bytes in {quiet:g} s")
                window, n_before = now, transfer.n_bytes
            if now - started > quiet + most / LEAST_MEAN and transfer.is_alive():
                transfer.is_given_up = True
                raise TimeoutError(
                    f"{url} sent only {transfer.n_bytes:,} of up to {most:,} bytes in"
                    f" {now - started:.0f} s"
                )
    if transfer.error is not None:
        raise transfer.error


class _Transfer(threading.Thread):
    """Reads a URL into a file; ends by itself soon after it was given up."""

    def __init__(self, url: str, path: Path, most: int, quiet: float) -> None:
        super().__init__(daemon=True)
        self.url, self.path, self.most, self.quiet = url, path, most, quiet
        self.n_bytes, self.is_given_up = 0, False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._read()
        except Exception as error:  # raised again by the thread that watches
            self.error = error

    def _read(self) -> None:
        request = urllib.request.Request(self.url, headers={"User-Agent": "bioplaus"})
        with urllib.request.urlopen(request, timeout=self.quiet) as response:
            stated = response.headers.get("Content-Length", "")
            self._check(int(stated) if stated.isdigit() else 0)
            if self.is_given_up:
                return
            with open(self.path, "wb") as file:
                while not self.is_given_up and (part := response.read1(_PART)):
                    self.n_bytes += len(part)
                    self._check(self.n_bytes)
                    file.write(part)
        if stated.isdigit() and self.n_bytes < int(stated) and not self.is_given_up:
            raise EOFError(f"{self.url} ended after {self.n_bytes:,} of {int(stated):,} bytes")

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self.most:
            raise BioplausError(
                f"{self.url} sends {n_bytes:,} bytes or more, but at most {self.most:,} were"
                " expected"
            )


def check(path: Path, digest: str, algorithm: str = "md5") -> None:
    """Raise `BioplausError` unless a file has this digest, or one that begins so."""
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, algorithm).hexdigest()
    if not actual.startswith(digest):
        raise BioplausError(
            f"the {algorithm} of {path.name} is {actual}, but {digest} was expected"
        )


def unpack(packed: Path, folder: Path, paths: Iterable[str]) -> None:
    """Unpack the files of a .tar.gz that are wanted, no others, into `folder`.

    Parameters
    ----------
    paths : of the wanted files, in the archive and in the folder.
    """
    wanted = set(paths)
    with tarfile.open(packed, "r:gz") as archive:
        for member in archive:
            if member.name in wanted and member.isfile():
                if member.size > MOST_UNPACKED:
                    raise BioplausError(f"{packed.name} holds {member.size:,} bytes {member.name}")
                source = archive.extractfile(member)
                assert source is not None  # of a file
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / member.name).write_bytes(source.read())


def idx(
    source: type, files: dict[str, int | None], folder: Path, sizes: dict[str, int], quiet: float
) -> None:
    """Fetch a set in MNIST's format: packed files, one by one, from the first mirror that has them.

    Parameters
    ----------
    source : the torchvision class, which knows mirrors, names and digests.
    files : path below `folder` of each unpacked file, and its size in bytes.
    sizes : of the packed files, by name, in bytes.
    """
    for (name, md5), (path, n_bytes) in zip(source.resources, files.items(), strict=True):
        packed = folder / name
        _first([mirror + name for mirror in source.mirrors], packed, md5, sizes[name], quiet)
        most = MOST_UNPACKED if n_bytes is None else n_bytes + 1
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        _idx.content(packed, most).tofile(folder / path)


def archive(source: type, files: Iterable[str], folder: Path, size: int, quiet: float) -> None:
    """Fetch a set that is one .tar.gz and unpack the wanted files.

    Parameters
    ----------
    source : the torchvision class, which knows the URL and the digest.
    size : of the archive, in bytes.
    """
    packed = folder / source.filename
    _first([source.url], packed, source.tgz_md5, size, quiet)
    unpack(packed, folder, files)


def _first(urls: list[str], path: Path, md5: str, most: int, quiet: float) -> None:
    """Fetch a file from the first of `urls` that gives the right one."""
    for url in urls:
        try:
            fetch(url, path, most=most, quiet=quiet)
            check(path, md5)
            return
        except Exception:
            if url == urls[-1]:
                raise
