"""Values from the command line for hydra: text is quoted, `~` is home, kinds are compared with the defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from videodit.cli.settings import register
from videodit.cli.words import with_home
from videodit.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

Scalar = str | int | float | bool | None

HYDRA_VERSION = "1.3"
_MEANT = re.compile(r"""null|.*\$\{.*|'.*'|".*\"""", re.DOTALL)  # values that hydra is meant to read


class Line(NamedTuple):
    """A command line taken apart: hydra's overrides, values set as typed, and whether -m and --cfg were given."""

    overrides: list[str]
    plain: dict[str, Scalar]
    multirun: bool = False
    show: bool = False

    def typed(self) -> list[str]:
        """The keys that were given, as they are written without hydra's signs."""
        return [*self.plain, *(override.lstrip("+~").partition("=")[0] for override in self.overrides)]


def quoted(conf: Path, command: str, line: Line) -> list[str]:
    """The overrides in hydra's grammar: text is quoted, so that a name may hold what hydra would read otherwise.

    Text is what a key has whose default is text, or what hydra cannot parse. Quotes, `null` and `${…}` that were typed
    stay, and in a sweep the commas between choices.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not line.overrides:
        return []
    groups, content = defaults_of(conf, command, line.overrides)
    known = dict(dotted(content, ""))
    texts = {key for key, value in known.items() if isinstance(_followed(value, known), str)} - set(groups)

    def parses(override: str) -> bool:
        try:
            OverridesParser.create().parse_overrides([override])
        except HydraException:
            return False
        return True

    found = []
    for override in line.overrides:
        key, _, value = override.partition("=")
        free = key in texts and not line.multirun and not _MEANT.fullmatch(value)
        plain = key[0] not in "~+" and value[:1] not in ("[", "{", "'", '"') and "${" not in value
        found.append(f"{key}={_quote(value)}" if free or (plain and not parses(override)) else override)
    return found


def _followed(value: Any, known: Mapping[str, Any]) -> Any:
    """The default that a plain `${key}` takes."""
    while isinstance(value, str) and (taken := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        value = known.get(taken[1])
    return value


def _quote(value: str) -> str:
    r"""Text as hydra's grammar quotes it: `'`, and backslashes before one or at the end, have one more before them."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def at_home(cfg: DictConfig) -> DictConfig:
    """Put the home folder for `~` where a value, or one of several with commas between, begins with it."""
    from omegaconf import OmegaConf

    for key, value in dotted(OmegaConf.to_container(cfg, resolve=False), ""):
        if (found := with_home(key, value)) != value:
            OmegaConf.update(cfg, key, literal(found))
    return cfg


def check_kinds_of_values(conf: Path, command: str, overrides: Sequence[str]) -> None:
    """InputError where a key of a group or section is given a word for a number, a number for a list and the like, and
    for one beside them all, which hydra's `+` would add and nothing would read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    given = [override for override in overrides if re.match(r"[\w.]+=", override)]
    added = [one[1] for override in overrides if (one := re.match(r"\+{1,2}(\w+)", override)) and one[1] != "hydra"]
    if not given and not added:
        return
    try:
        parsed = OverridesParser.create().parse_overrides(given)
        groups, content = defaults_of(conf, command, overrides)
    except HydraException:  # told where it is composed
        return
    defaults = dict(dotted(content, ""))
    known = {*groups, *defaults}
    if strange := [name for name in added if name not in known]:
        raise InputError(f"unknown key {strange[0]!r}{did_you_mean(strange[0], known)}")
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override() or key in groups or key not in defaults:
            continue
        if wanted := _unlike(defaults[key], override.value()):
            raise InputError(f"{override.input_line}: expected {wanted}")


def _unlike(default: Any, value: Any) -> str:
    """What a value should be, beside this default; empty where it is, or where any may do."""
    if value is None or default is None or "${" in str(value) or (isinstance(default, str) and "${" in default):
        return ""
    if isinstance(default, dict):
        return f"its keys: {', '.join(map(str, default))}" if isinstance(value, str | bool | list) else ""
    if isinstance(default, list):
        return "" if isinstance(value, list) else "a list, such as [1,2]"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number else "a number"
    return "a word" if isinstance(value, list | dict) else ""


def defaults_of(conf: Path, command: str, overrides: Sequence[str]) -> tuple[list[str], Any]:
    """The groups of a command, and what it has with these choices of them."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    groups = [path.name for path in conf.iterdir() if path.is_dir()]  # also those of a config that it extends
    chosen = [override for override in overrides if override.partition("=")[0] in groups]
    try:
        cfg = composed(conf, command, chosen)
    except HydraException:
        cfg = composed(conf, command, [])
    return groups, OmegaConf.to_container(cfg, resolve=False)


def composed(conf: Path, command: str, overrides: Sequence[str]) -> DictConfig:
    """What hydra makes of a command's YAML and overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    if GlobalHydra.instance().is_initialized():  # inside a launched command, which has the same tree open
        return compose(config_name=command, overrides=list(overrides))
    with initialize_config_dir(config_dir=str(conf), version_base=HYDRA_VERSION):
        return compose(config_name=command, overrides=list(overrides))


def dotted(content: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    """Every dotted key below a nested value, with what it has."""
    entries = enumerate(content) if isinstance(content, list) else content.items() if isinstance(content, dict) else ()
    for key, value in entries:
        yield f"{prefix}{key}", value
        yield from dotted(value, f"{prefix}{key}.")


def literal(value: Scalar) -> Scalar:
    """Text that omegaconf will give back as it is: `${` would otherwise ask for another key's value."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
