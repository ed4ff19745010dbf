"""Commands for those who add to the package."""

from typing import Annotated

import typer

from bioplaus.cli.output import say


def new_rule(
    name: Annotated[str, typer.Argument(help="Its key: small letters, digits and _.")],
) -> None:
    """Write a learning rule to start from: a file that already learns, and its manifest entry."""
    from bioplaus.experiments import new_rule as starting

    rule, entries = starting.new_rule(name)
    root = rule.parents[2]
    for path, what in (
        (rule, "the rule: change its equations"),
        (entries, f"its entry, {starting.EXPERIMENT}/{name}: change its parameters"),
    ):
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        say(f"wrote {shown}, {what}")
    say(f"Does it keep the contract?  python -m pytest tests/rules -k {name}")
    say(f"How fast is a step?         python -m bioplaus benchmark {name}")
    say(
        "Does it learn?              python -m bioplaus run --preset smoke --only"
        f" {starting.EXPERIMENT}/{name}"
    )
