"""The command `imc-kit`: selects the command, its verbosity, and its exit status."""

import logging
import sys
from collections.abc import Sequence
from importlib import metadata

from tqdm.contrib.logging import logging_redirect_tqdm

from imc_kit.cli.command import Command
from imc_kit.cli.compare import Compare
from imc_kit.cli.demo import Demo
from imc_kit.cli.export import Export
from imc_kit.cli.frames import Frames
from imc_kit.cli.list import ListNames
from imc_kit.cli.localise import Localise
from imc_kit.cli.rehearse import Rehearse
from imc_kit.cli.report import Report
from imc_kit.cli.score import Score
from imc_kit.cli.solve import Solve
from imc_kit.cli.terminal import PrintableFormatter, escaping
from imc_kit.cli.weights import Check, Get, List
from imc_kit.errors import KitError, unknown_name
from imc_kit.runtime import malloc
from imc_kit.runtime.console import printing

COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "solve": Solve,
    "score": Score,
    "report": Report,
    "export": Export,
    "frames": Frames,
    "localise": Localise,
    "compare": Compare,
    "list": ListNames,
    "weights list": List,
    "weights get": Get,
    "weights check": Check,
    "rehearse": Rehearse,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 nothing could be solved, 2 wrong use, 130 interrupted."""
    command = Command()
    with printing("imc-kit"), escaping():
        try:
            command = parse(sys.argv[1:] if arguments is None else arguments)
            _set_verbosity(command)
            malloc.tune()
            with logging_redirect_tqdm():
                return command.run()
        except KitError as error:
            print(f"imc-kit: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"imc-kit: {command.interrupted()}", file=sys.stderr)
            return 130


def parse(arguments: Sequence[str]) -> Command:
    """Parse the command line. Exits after `--help` and `--version`; raises `KitError` for an unknown command."""
    words = 2 if list(arguments[:1]) == ["weights"] else 1
    name = " ".join(arguments[:words])
    if name in COMMANDS:
        return COMMANDS[name].parse(name, arguments[words:])
    if name == "--version":
        print(f"imc-kit {metadata.version('imc-kit')}")
    elif name.removeprefix("weights").strip() in ("", "-h", "--help"):
        print(_help())
    else:
        raise unknown_name("command", name, [*COMMANDS, "weights"])
    sys.exit(0)


def _help() -> str:
    summaries = [f"  {name:<15}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    about = "From folders of photos to camera poses, offline. 'imc-kit demo' shows it."
    more = "'imc-kit COMMAND --help' explains a command; 'imc-kit --version' prints the version."
    return "\n".join(["usage: imc-kit COMMAND ...", "", about, "", "commands:", *summaries, "", more])


def _set_verbosity(command: Command) -> None:
    form = "%(asctime)s %(name)s: %(message)s" if command.verbose else "%(message)s"
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter(form))
    level = logging.WARNING if command.quiet else logging.DEBUG if command.verbose else logging.INFO
    logging.getLogger("imc_kit").setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
