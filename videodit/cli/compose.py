"""From words on the command line to a config, for the commands that choose from groups of configs.

A key that has one value takes it as it was typed (`words`). Every other key (a group, a key with a dot, `+key`,
`~key`), and all of a command that sweeps, is hydra's: there `values.quoted` quotes text, so that it arrives as it was
typed, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from videodit.cli.objects import FOLLOWS
from videodit.cli.settings import own_defaults, register, settings_of
from videodit.cli.values import (
    HYDRA_VERSION,
    Line,
    at_home,
    check_kinds_of_values,
    composed,
    defaults_of,
    dotted,
    literal,
    quoted,
)  # fmt: skip
from videodit.cli.words import ASSIGNMENT, SHOW, take_apart
from videodit.config import raise_hydra_errors
from videodit.errors import InputError, did_you_mean
from videodit.moved import MOVED
from videodit.printable import say
from videodit.settings import from_text, names_of, plain_names
from videodit.shapes import Sizes

if TYPE_CHECKING:
    from omegaconf import DictConfig

MULTIRUN = ("-m", "--multirun")
_EXTRAS = {"hydra/launcher=joblib": "joblib", "hydra/launcher=submitit_local": "submitit",
           "hydra/launcher=submitit_slurm": "submitit", "hydra/sweeper=optuna": "optuna"}  # fmt: skip


def parse(conf: Path, command: str, args: Sequence[str], *, positional: str | None, sweeps: bool) -> Line:
    """Take a command's arguments apart. `positional` is the key that a bare word is meant for, if there is one.

    A command that `sweeps` takes -m and leaves every value to hydra's grammar. InputError for an unknown option, a
    word that no key is meant to take, or a value of the wrong kind.
    """
    kind, own = settings_of(command), own_defaults(command)
    words = take_apart(
        command,
        args,
        keys=() if sweeps else [name for name in plain_names(kind) if name in own],
        known=[*names_of(kind), *(entry.name for entry in conf.iterdir() if entry.is_dir())],
        positional=positional,
        options=[SHOW, *(MULTIRUN if sweeps else ())],
    )
    plain = {key: from_text(kind, key, text) for key, text in words.texts.items()}
    return Line(words.others, plain, multirun=bool(words.options & {*MULTIRUN}), show=SHOW in words.options)


def config(conf: Path, command: str, line: Line) -> DictConfig:
    """The composed config of a command; InputError in one line for whatever is wrong with the overrides."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    overrides = quoted(conf, command, line)
    check_kinds_of_values(conf, command, overrides)
    try:
        cfg = composed(conf, command, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, conf, command, overrides) from None
    for key, value in line.plain.items():
        cfg[key] = literal(value)
    return with_new_names(at_home(cfg))


def text(cfg: DictConfig) -> str:
    """A config as YAML, interpolations as they are written."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(cfg).rstrip()


def launch(conf: Path, command: str, line: Line, run: Callable[[DictConfig], float | None]) -> None:
    """Run a command under hydra's launcher, which makes the run folder and, with -m, one job per choice of values.

    In a sweep each job's `run_dir` is the folder that hydra made for it, and `tracked` tells it from the others.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    raise_hydra_errors()
    register()
    overrides = quoted(conf, command, line)
    check_kinds_of_values(conf, command, overrides)
    failure: list[Exception] = []
    here = os.getpid()

    def task(cfg: DictConfig) -> float | None:
        if line.multirun:
            job = HydraConfig.get()
            cfg.run_dir = job.runtime.output_dir
            own = _own_choices(overrides, job.overrides.task)
            cfg.tracked.name = literal(" ".join(own)) if own else cfg.tracked.name
            cfg.tracked.group = literal(Path(job.sweep.dir).name)
        try:
            with _unmade(Path(cfg.run_dir)):
                return run(with_new_names(at_home(cfg)))
        except Exception as error:  # kept from hydra, which would print it in its own way, and run the next job
            if os.getpid() != here:  # a launcher's process, which brings the error to this one
                raise
            failure.append(error)
            raise SystemExit from None

    argv = sys.argv
    sys.argv = ["videodit", *(["--multirun"] if line.multirun else []), f"hydra.job.name={command}", *overrides]
    try:
        hydra.main(version_base=HYDRA_VERSION, config_path=str(conf), config_name=command)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, conf, command, overrides) from None
    except (FileExistsError, NotADirectoryError) as error:  # the launcher made no folder for the run
        raise InputError(f"run_dir: {error.filename} is not a folder") from None
    except OSError as error:
        raise InputError(f"run_dir: {error.filename} cannot be made: {error.strerror or error}") from None
    except SystemExit:
        if failure:
            raise failure[0] from failure[0].__cause__
        raise
    finally:
        sys.argv = argv


@contextmanager
def _unmade(folder: Path) -> Iterator[None]:
    """Where a run comes to nothing, no folder of it is left, which hydra made."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def with_new_names(cfg: DictConfig) -> DictConfig:
    """Replace the old names in a config's `_target_`s, and say so in one line for each."""
    from omegaconf import OmegaConf

    every = dotted(OmegaConf.to_container(cfg, resolve=False), "")
    found = {key: str(name) for key, name in every if key.endswith("_target_") and str(name) in MOVED}
    for key, name in found.items():
        OmegaConf.update(cfg, key, MOVED[name])
    say(*(f"deprecated: {name} is now {MOVED[name]}; write that" for name in sorted(set(found.values()))))
    return cfg


def explained(error: Exception, conf: Path, command: str, overrides: Sequence[str]) -> InputError:
    """What hydra or omegaconf made of the overrides, as one line that names the key or the group."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return InputError(f"{error.override}: {first_line(error)} (quote the value for hydra: key=\"'a, b'\")")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
        if extra := _EXTRAS.get(f"{group}={name}"):
            return InputError(f'{group}={name} needs a package: pip install "videodit[{extra}]"')
        if hint := _takes_weights(conf, str(error.missing_cfg_file), command):
            return InputError(hint)
        options = sorted(error.options or _options(conf, group))
        return InputError(f"{group}={name}: not among {', '.join(options)}{did_you_mean(name, options)}")
    known = _known_keys(conf, command, overrides)
    for override in overrides:
        match = ASSIGNMENT.fullmatch(override)
        key = match["key"] if match else None
        if key and key[0] not in "+~" and not key.startswith("hydra") and key.partition("@")[0] not in known:
            gone = key.rpartition(".")[2] in Sizes._fields  # which data sets had, before the networks said it
            return InputError(f"{key}: {FOLLOWS}" if gone else f"unknown key {key!r}{did_you_mean(key, known)}")
    if str(error).startswith("Ambiguous value"):
        return InputError(f"{first_line(error)}: a list is key=[a,b]; values to try one after the other need train -m")
    cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
    return InputError(f"{first_line(error)}{cause}")


def _takes_weights(conf: Path, file: str, command: str) -> str:
    """What to say where weights are given to the group of architectures, else nothing."""
    group, _, name = file.removesuffix(".yaml").partition("/")
    weights = "/" in name or Path(name).exists() or (conf / "pretrained" / f"{name}.yaml").is_file()
    if group != "model" or not weights:
        return ""
    architectures = ", ".join(sorted(_options(conf, group)))
    return f"model={name}: in {command} model= is an architecture ({architectures}); weights are taken by init={name}"


def _own_choices(given: Sequence[str], overrides: Iterable[str]) -> list[str]:
    """Those of a job's overrides that the sweep chose. A sweeper may choose for keys that were not given, too."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(given))
    fixed = {override.get_key_element() for override in parsed if not override.is_sweep_override()}
    return [override for override in overrides if override.partition("=")[0] not in fixed]


def _options(conf: Path, group: str) -> list[str]:
    return [path.stem for path in (conf / group).glob("*.yaml")]


def _known_keys(conf: Path, command: str, overrides: Sequence[str]) -> list[str]:
    """Every dotted key, and every group, that the command has with these choices of groups."""
    groups, content = defaults_of(conf, command, overrides)
    return [*groups, *(key for key, _ in dotted(content, ""))]


def first_line(error: object) -> str:
    """The first line of what an error says, or what it is called."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
