"""Run the table of faults at its full counts and print, row by row, tried and survived.

    python tests/faults [--only TEXT] [--count N]

Exit code 1 if a promise was broken, or held without what it rests on.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "results"), str(HERE.parent / "experiments")]

import table  # noqa: E402  (its rows are found beside this file)
from rows import count  # noqa: E402


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", default="", help="rows whose name holds this text")
    options.add_argument("--count", type=int, help="trials of each row, in place of its target")
    chosen = options.parse_args()
    is_broken = False
    print(f"{'row':26} {'tried':>6} {'survived':>8} {'seconds':>8}  what is done")
    for row in table.ROWS.values():
        if chosen.only not in row.name:
            continue
        with tempfile.TemporaryDirectory(prefix="bioplaus-faults-") as folder:
            started = time.monotonic()
            held = count(row, chosen.count or row.target, Path(folder) / "on")
            seconds = time.monotonic() - started
            print(
                f"{row.name:26} {held.tried:6} {held.survived:8} {seconds:8.0f}  {row.fault}",
                flush=True,
            )
            is_broken |= held.survived < held.tried
            if held.first_broken:
                print(f"{'':26} {held.first_broken}")
            if row.guard_off:
                with row.guard_off():
                    off = count(row, row.n_guard_off, Path(folder) / "off", until_broken=True)
                print(f"{'  without its guard':26} {off.tried:6} {off.survived:8}", flush=True)
                is_broken |= off.survived == off.tried
    return int(is_broken)


if __name__ == "__main__":
    sys.exit(main())
