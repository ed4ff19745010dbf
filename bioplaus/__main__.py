"""`python -m bioplaus <command>`: runs a command of `bioplaus.cli`, and turns errors into one
sentence and an exit code.
"""

import signal
import sys
import traceback
from functools import partial

from bioplaus.errors import BioplausError, missing_package
from bioplaus.experiments import signals

_INTERRUPTED = (
    "Interrupted. What is done is kept; the same command resumes from the last checkpoints."
)


def main() -> None:
    """Run a command; errors end in one sentence and an exit code (2 input, 1 failed run, 130 or 143
    interrupted).
    """
    is_debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    say = partial(print, file=sys.stderr)
    with signals.orderly_stop(at_last=lambda: say(_INTERRUPTED)) as interruption:
        try:
            from bioplaus.cli import app

            app()
        except SystemExit as stop:
            if stop.code != 128 + signal.SIGINT:
                raise
            say(_INTERRUPTED)
            sys.exit(interruption.exit_code)
        except KeyboardInterrupt:
            say(_INTERRUPTED)
            sys.exit(interruption.exit_code)
        except BioplausError as error:
            if is_debug:
                traceback.print_exc()
            say(f"error: {error}")
            sys.exit(error.exit_code)
        except Exception as error:
            missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
            if missing:
                say(f"error: {missing}")
                sys.exit(missing.exit_code)
            if is_debug:  # a fault of bioplaus itself
                raise
            say(
                f"error: unexpected {type(error).__name__}: {error} (--debug shows where; please"
                " report it)"
            )
            sys.exit(1)


if __name__ == "__main__":
    main()
