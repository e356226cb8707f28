"""A house in which the second network is known: its architecture in the closed table, and its YAML beside the others.

As a process: python -m tests.second.house CONF COMMAND…, with the configs of `furnish` in CONF.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest import mock

from tests.second.twin import Arguments, Twin
from videodit.config import conf_dir
from videodit.models import arguments, build

NAME = "twin"
READERS = ("videodit.cli.main", "videodit.cli.typed", "videodit.cli.keys", "videodit.checkpoint.resolve")


def furnish(folder: Path) -> Path:
    """A copy of the configs with the second network's."""
    shutil.copytree(conf_dir(), folder)
    shutil.copy(Path(__file__).with_name("twin.yaml"), folder / "model" / f"{NAME}.yaml")
    return folder


@contextmanager
def opened(conf: Path) -> Iterator[None]:
    """While this lasts the commands of this process know it."""
    with mock.patch.dict(build.ARCHITECTURES, {NAME: Twin}), mock.patch.dict(arguments.ARGUMENTS, {NAME: Arguments}):
        patches = [mock.patch.object(import_module(name), "conf_dir", lambda: conf) for name in READERS]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


if __name__ == "__main__":
    from videodit.cli.main import main

    with opened(Path(sys.argv[1])):
        sys.exit(main(sys.argv[2:]))
