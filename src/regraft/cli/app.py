"""The `regraft` command: finds the commands, turns errors into messages and exit codes.

Exit codes: 0 done, 1 a check or gate failed, 2 wrong use or wrong input, 3 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from regraft.errors import InterruptedRunError, MachineError, Problem, RegraftError, did_you_mean

# Name -> (where the click command is, one line for `regraft --help`). Commands are imported when they are run.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("regraft.cli.demo:demo", "The whole line on 2,000 real e-mails: fit, judge, save, answer over HTTP."),
    "fit": ("regraft.cli.fit:fit", "Fit a base to your data, judge it, save it as an artifact."),
    "evaluate": ("regraft.cli.answer:evaluate", "Judge an artifact on labelled data."),
    "predict": ("regraft.cli.answer:predict", "Answer every row of a file."),
    "retrieve": ("regraft.cli.retrieve:retrieve", "Find pictures by names, names by pictures: of an artifact of two towers."),
    "compare": ("regraft.cli.answer:compare", "Say whether a second artifact is better than a first on the same rows."),
    "report": ("regraft.cli.report:report", "Write the report page of an artifact, or of several side by side."),
    "export": ("regraft.cli.export:export", "Make an artifact into another form that answers alike, or refuse."),
    "merge": ("regraft.cli.merge:merge", "Fold the adapters of an artifact into its weights."),
    "inspect": ("regraft.cli.look:inspect", "Verify an artifact and show what is in it."),
    "sign": ("regraft.cli.sign:sign", "Sign an artifact with a private key."),
    "verify": ("regraft.cli.sign:verify", "Verify the signature of an artifact with a public key."),
    "bases": ("regraft.cli.look:bases", "List the base models; fetch one."),
    "list": ("regraft.cli.look:list_family", "List what can be chosen: tasks, bases, tunings, ..."),
    "cache": ("regraft.cli.cache:cache", "Show what is kept of earlier work; make room."),
    "serve": ("regraft.cli.answer:serve", "Answer over HTTP on this machine."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"there is no command '{cmd_name}'; {did_you_mean(cmd_name, list(COMMANDS))}", ctx)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from regraft.version import __version__

        click.echo(f"regraft {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version and leave."
)
def app() -> None:
    """Fit a pretrained model to your data, judge it honestly, ship what was judged.

    Start with:  regraft demo
    """


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: Instead of `sys.argv[1:]`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        app.main(args=arguments, prog_name="regraft", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 0
    except click.ClickException as error:
        _say(error.format_message(), arguments, hint=_usage(error))
        return 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        problem = Problem(what="interrupted; nothing was left half-written", fix="run the same command again")
        _report(InterruptedRunError(problem), arguments)
        return InterruptedRunError.exit_code
    except RegraftError as refusal:
        _report(refusal, arguments)
        return refusal.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`regraft predict ... | head`): not an error, but nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as failure:
        # Rooms turn what they foresee into better words; a file taken away in the middle or a broken disk ends here.
        got = failure.strerror or str(failure)
        _report(
            MachineError(
                Problem(
                    what="the machine refused",
                    where=str(failure.filename or ""),
                    got=got,
                    fix="mend that, then run the command again",
                )
            ),
            arguments,
        )
        return 1
    except MemoryError:
        problem = Problem(what="out of memory", fix="use a smaller batch (--set train.micro_batch_size=4) or shorter inputs")
        _report(RegraftError(problem), arguments)
        return 1
    return 0


def _usage(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    return f"see '{ctx.command_path} --help'" if ctx else ""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _report(error: RegraftError, arguments: list[str]) -> None:
    _say(str(error), arguments, problems=[problem.to_json() for problem in error.problems])


def _say(text: str, arguments: list[str], hint: str = "", problems: list[dict[str, str]] | None = None) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + text + (f"\n  to do: {hint}" if hint else ""), err=True)
    if "--json" in arguments:
        # Whoever read our output may have gone, and the error is said above: the exit code is still that of the error.
        with contextlib.suppress(BrokenPipeError):
            click.echo(json.dumps({"error": text, "problems": problems or [{"what": text}]}))
