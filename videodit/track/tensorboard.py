"""TensorBoard: curves, pictures and texts in event files. Needs the package tensorboard, imported when a run starts."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videodit.errors import InputError
from videodit.track.tracker import Tracker, plain

PNG = b"\x89PNG\r\n\x1a\n"
RGB = 3  # the number TensorBoard's image records give this colour space


class TensorBoard(Tracker):
    """Writes event files to `folder`, for `tensorboard --logdir`.

    TensorBoard plays no mp4: of a video it shows the contact sheet if there is one, and the caption with the file's
    name. What a resumed run does again is purged by TensorBoard's own means: it ignores the older records after that
    step.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def start(self, config: Mapping[str, Any], step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError('tracker=tensorboard needs a package: pip install "videodit[tensorboard]"') from error
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else 0, flush_secs=20)
        self._writer.add_text("config", "```json\n" + json.dumps(plain(config), indent=2) + "\n```", step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, path: str | Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        # SummaryWriter.add_image would decode the file and encode it again; the record takes the bytes as they are.
        data = Path(path).read_bytes()
        if not data.startswith(PNG):
            raise InputError(f"{path}: not a PNG file; pictures are tracked as PNG")
        width, height = struct.unpack(">II", data[16:24])
        image = Summary.Image(width=width, height=height, colorspace=RGB, encoded_image_string=data)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def video(self, step: int, name: str, path: str | Path, caption: str, sheet: str | Path | None = None) -> None:
        self._writer.add_text(name, f"{caption}\n\n`{path}`", step)
        if sheet is not None:
            self.image(step, f"{name}/sheet", sheet)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        text = "\n".join("| " + " | ".join(line) + " |" for line in cells)
        self._writer.add_text(name, text, step)

    def finish(self, failed: bool = False) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
