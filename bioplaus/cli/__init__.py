"""The command line: `python -m bioplaus <command>`; every command says what it does with
`--help`.
"""

import typer

from bioplaus.cli import checks, contributing, data, options, runs

app = typer.Typer(
    no_args_is_help=True,
    help=__doc__,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _command in (
    runs.run,
    runs.reproduce,
    runs.report,
    runs.status,
    runs.collect,
    checks.conform,
    checks.benchmark,
    checks.doctor,
    contributing.new_rule,
):
    app.command(cls=options.Command)(_command)
app.add_typer(data.app, name="data")
