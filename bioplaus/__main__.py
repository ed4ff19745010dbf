"""`python -m bioplaus <command>`: runs a command of `bioplaus.cli`, and turns errors into one
sentence and an exit code.
"""

import sys
import traceback

from bioplaus.cli import app
from bioplaus.errors import BioplausError

INTERRUPTED = 130  # exit code after Ctrl-C


def main() -> None:
    """Run a command; errors end in one sentence and an exit code (2 input, 1 failed run, 130
    interrupted).
    """
    is_debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print(
                "Interrupted. What is done is kept; the same command resumes from the last"
                " checkpoints.",
                file=sys.stderr,
            )
        raise
    except BioplausError as error:
        if is_debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # a fault of bioplaus itself
        if is_debug:
            raise
        print(
            f"error: unexpected {type(error).__name__}: {error} (--debug shows where; please"
            " report it)",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
