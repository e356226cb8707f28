"""`videodit <command> [prompt] [key=value …]`: finds the command, hands it its settings, reports errors.

A command is an entry of COMMANDS, a class of settings, and a module `videodit.cli.<command>` with
`run(asked: <its settings>)`; one that chooses from groups of configs has a root config `conf/<command>.yaml`, too.
Nothing heavy is imported before the command is known to exist and its help was not asked for: `--help`, `--version`
and a misspelt name answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import videodit
from videodit.alive import watched
from videodit.cli import compose, effects
from videodit.cli.keys import command_help
from videodit.cli.messages import spoken
from videodit.cli.objects import check_objects
from videodit.cli.settings import COMPOSED, settings_of
from videodit.cli.typed import typed
from videodit.cli.words import SHOW, as_yaml, settings_from
from videodit.config import conf_dir, launch
from videodit.errors import InputError, Interrupted, Terminated, did_you_mean
from videodit.printable import answer, one_line, say
from videodit.signals import end, on_stop

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Command(NamedTuple):
    """One line of help, the key that a bare word is meant for, whether hydra launches it (run folders, sweeps), and
    what the same command does after it was stopped: empty where it would only begin again.
    """

    help: str
    positional: str | None = None
    launched: bool = False
    again: str = ""


GOES_ON = "the same command goes on from there"
MAKES_REST = "finished videos and waiting latents stay; the same command makes what is missing"
WAIT = "the latents still wait, and the same command decodes them"
BEGINS = "the same command begins again"

COMMANDS = {
    "generate": Command("make a video from a prompt", positional="prompt", again=MAKES_REST),
    "plan": Command("what a generation will need of memory and time", positional="prompt"),
    "decode": Command("finish a video that was denoised but not decoded", positional="path", again=WAIT),
    "train": Command("train a VAE or a DiT; the same command again resumes; -m sweeps", launched=True, again=GOES_ON),
    "doctor": Command("is a training worth starting? short checks of data, model and machine"),
    "ingest": Command("make a training set from a folder of raw videos", positional="videos", again=GOES_ON),
    "encode": Command("cache the latents of a data set", again=GOES_ON),
    "evaluate": Command("measure a VAE or a DiT, prompt following included"),
    "report": Command("a run as one HTML page: curves, samples, config", positional="path"),
    "export": Command("write a run's weights as a folder that model= takes"),
    "info": Command("describe a model, a run, a set, a video, or this installation", positional="path"),
}

# Errors of the machine, not of videodit: a traceback would only hide the message.
MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)

USAGE_ERROR = 2
INTERRUPTED, TERMINATED = 130, 143  # as a shell says it: 128 and the signal
TRY_AGAIN = 75  # EX_TEMPFAIL, which a scheduler's script can requeue on


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return the exit code: 0, 1 for a bug, 2 for bad input,
    75 for work that SIGTERM stopped and the same command takes up (143 for other work), 130 for Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    own = argv is None and bool(args) and args[0] in COMMANDS and launch().rank == 0  # one of several tells for all
    try:
        with stopping(), watched(f"videodit {args[0]}") if own else nullcontext():
            dispatch(args)
    except Terminated:
        say(f"videodit: stopped; {again_of(args) or BEGINS}")
        return TRY_AGAIN if again_of(args) else TERMINATED
    except KeyboardInterrupt:
        say("videodit: interrupted", again_of(args) or BEGINS)
        return INTERRUPTED
    except Interrupted as stop:
        say(f"videodit: {stop}")
        return INTERRUPTED if stop.by_hand else TRY_AGAIN
    except BrokenPipeError:  # such as by `| head`; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        message = user_message(error)
        if message is None:
            traceback.print_exc()
            return 1
        say(f"videodit: error: {message}")
        return USAGE_ERROR
    return 0


@contextmanager
def stopping() -> Iterator[None]:
    """Work that SIGTERM and Ctrl-C end, also where a library made another error of the one that was to end it."""
    heard: list[int] = []

    def hear(number: int) -> None:
        heard.append(number)
        end(number)

    with on_stop(hear):
        try:
            yield
        except (Interrupted, BrokenPipeError):
            raise
        except Exception:
            if heard:
                end(heard[0])
            raise


def again_of(args: Sequence[str]) -> str:
    """What the same command would do after it was stopped."""
    return COMMANDS[args[0]].again if args and args[0] in COMMANDS else ""


def dispatch(args: list[str]) -> None:
    """Carry out one command line; every error is raised."""
    if not args or args[0] in ("-h", "--help"):
        answer(*overview().splitlines())
    elif args[0] in ("-V", "--version"):
        answer(f"videodit {videodit.__version__}")
    elif args[0] not in COMMANDS:
        raise InputError(f"unknown command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
    elif "-h" in args or "--help" in args:
        answer(*command_help(args[0], COMMANDS[args[0]].help, COMMANDS[args[0]].positional).splitlines())
    else:
        _run(args[0], args[1:])


def _run(name: str, args: list[str]) -> None:
    """Carry out a command: from what was typed alone, or by hydra where there are groups to choose from."""
    if name in COMPOSED:
        _run_composed(name, args)
        return
    asked, words = settings_from(name, settings_of(name), args, COMMANDS[name].positional)
    if SHOW in words.options:
        answer(*as_yaml(asked))
    else:
        with spoken():
            _carry_out(name, asked, [*words.texts])


def _run_composed(name: str, args: list[str]) -> None:
    """Carry out a command whose config hydra composes of groups."""
    command, conf = COMMANDS[name], conf_dir()
    if not (conf / f"{name}.yaml").is_file():
        raise InputError(f"{name} has no {conf / name}.yaml: install the package again")
    line = compose.parse(conf, name, args, positional=command.positional, sweeps=command.launched)

    def run(cfg: DictConfig) -> float | None:
        with spoken():  # here, as a launcher may run it in another process
            check_objects(cfg)
            return _carry_out(name, typed(name, cfg), line.typed())

    if line.show:
        answer(*compose.text(compose.config(conf, name, line)).splitlines())
    elif command.launched:
        compose.launch(conf, name, line, run)
    else:
        run(compose.config(conf, name, line))


def _carry_out(name: str, asked: Any, given: Sequence[str]) -> float | None:
    """Run a command with its settings; `given`: the keys that were typed. InputError for one that has no effect."""
    effects.check(name, asked, given)
    # Imported only now: a mistake in the command line is reported without waiting for torch.
    return import_module(f"videodit.cli.{name}").run(asked)


def overview() -> str:
    """The text of `videodit --help`."""
    lines = ["videodit <command> [prompt] [key=value …]", ""]
    lines += [f"  {name:<10}{command.help}" for name, command in COMMANDS.items()]
    lines += ["", "videodit <command> --help    its keys", "videodit --version"]
    return "\n".join(lines)


def user_message(error: BaseException) -> str | None:
    """One line for an error that the user can mend, else None: then it is a bug, and its traceback is wanted."""
    cause: BaseException | None = error
    while cause is not None:  # hydra's instantiate wraps what a constructor raised
        if isinstance(cause, InputError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS:
            where = f": {cause.filename}" if cause.filename else ""
            return one_line(f"{(cause.strerror or str(cause)).lower()}{where}")
        if "No space left on device" in str(cause):  # safetensors raises its own kind
            return one_line(f"no space left on device ({str(cause).splitlines()[0]})")
        # Of torch, which many commands do not import: by name.
        kinds = {kind.__name__ for kind in type(cause).__mro__}
        if "DistError" in kinds or ("RuntimeError" in kinds and "/gloo/" in str(cause)):
            return "another process of this command has ended; its own lines say why"
        cause = cause.__cause__
    return None
