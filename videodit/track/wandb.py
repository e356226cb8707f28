"""Weights & Biases: curves, samples and tables on its site, or in a folder to upload later with `wandb sync`.

The package wandb (0.31 or later) is imported when a run starts. What it is given is written by its service, a process
that it starts and that ends with this one (or by `wandb.teardown()`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from videodit.errors import InputError
from videodit.printable import note
from videodit.track.tracker import Tracker, plain

MODES = ("auto", "online", "offline")
STEP = "step"  # the name of the run's own step


class Wandb(Tracker):
    """One run of `project`, kept in `folder`/wandb and named `name`. Runs of one `group`, where it is not "", are shown
    together.

    Mode "auto" is online where wandb knows an account (`wandb login`) and offline elsewhere. The run's id is kept in
    `folder`/wandb-id: resuming goes on in the same run, starting over takes a new one. wandb forgets nothing and counts
    its own steps, never back: those that a resumed run does again stand there twice, with the same numbers, and wandb
    may number all that follows upward. So every record carries the run's `step` too, and charts are drawn against it.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        project: str,
        name: str,
        group: str,
        mode: Literal["auto", "online", "offline"] = "auto",
    ) -> None:
        if mode not in MODES:
            raise InputError(f"the wandb tracker's mode is one of {', '.join(MODES)}, not {mode!r}")
        self.folder, self.project, self.name, self.group, self.mode = Path(folder), project, name, group, mode
        self._wandb: Any = None  # the module, once started
        self._run: Any = None

    def start(self, config: Mapping[str, Any], step: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError("the wandb tracker needs a package: pip install wandb") from error
        self._wandb = wandb
        self.folder.mkdir(parents=True, exist_ok=True)
        # Silent: only what this file prints. The console stays ours: wandb would capture it, progress bars and all.
        settings = wandb.Settings(silent=True, console="off")
        wandb.setup(settings=settings)
        account = self.mode == "auto" and wandb.login(prompt=False)
        self._run = wandb.init(
            project=self.project,
            name=self.name,
            group=self.group or None,
            id=self._identity(step),
            dir=str(self.folder),
            config=plain(config),
            allow_val_change=True,  # a resumed run may have a longer config
            mode=("online" if account else "offline") if self.mode == "auto" else self.mode,
            resume="allow",
            reinit="create_new",  # leave other runs of this process alone
            settings=settings,
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        note(__name__, f"wandb: {self._run.url or Path(self._run.dir).parent}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def image(self, step: int, name: str, path: str | Path) -> None:
        self._log(step, {name: self._wandb.Image(str(path))})

    def video(self, step: int, name: str, path: str | Path, caption: str, sheet: str | Path | None = None) -> None:
        self._log(step, {name: self._wandb.Video(str(path), caption=caption)})  # a path: copied, not encoded

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        data = self._wandb.Table(columns=list(columns), data=[plain(row) for row in rows], allow_mixed_types=True)
        self._log(step, {name: data})

    def finish(self, failed: bool = False) -> None:
        run, self._run = self._run, None  # whatever happens below, it is not tried twice
        if run:
            run.finish(exit_code=int(failed))

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({**values, STEP: step}, step=step)

    def _identity(self, step: int) -> str:
        """The id to resume, or a new one (no random generator of the training is touched)."""
        file = self.folder / "wandb-id"
        identity = file.read_bytes().decode("ascii", "replace").strip() if step > 0 and file.exists() else ""
        if not re.fullmatch(r"[\w-]{1,64}", identity, re.ASCII):
            identity = secrets.token_hex(4)
            file.write_text(identity + "\n")
        return identity
