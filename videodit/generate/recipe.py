"""A recorded video, to be made again: its request, how its model was open, its layout, and what is not as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videodit.checkpoint.adapters import parse
from videodit.decode import Way
from videodit.errors import InputError
from videodit.generate.admission import plan
from videodit.generate.layout import Layout, fitting, layouts, made_in
from videodit.generate.model import Model
from videodit.generate.pipe import VERSIONS, Pipe
from videodit.generate.record import read_record
from videodit.generate.request import OWN, Request, check_keys, with_defaults
from videodit.printable import note
from videodit.shapes import VideoShape


@dataclass(frozen=True)
class Recipe:
    """A video's record, and the file that has it."""

    where: Path
    record: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """That of a video. InputError where it has none."""
        return cls(path, read_record(path))

    @property
    def made_with(self) -> Mapping[str, Any]:
        """How the model was open; of an older record nothing, or less."""
        return self.record.get("made_with", {})

    def request(self, changed: Mapping[str, Any], model: str, lora: str = "") -> dict[str, Any]:
        """The keys of its request, but for those that are `changed`. Says where another model is asked, or another
        video comes of it.
        """
        if self.record["model"] != model:
            note(__name__, f"recipe: made with model={self.record['model']}, now {model}")
        if self.record.get("lora", {}) != parse(lora):
            note(__name__, f"recipe: made with lora={self.record.get('lora', {})}, now {parse(lora)}")
        before = {key: self.record[key] for key in OWN if key in self.record}  # older records have fewer
        check_keys(before)
        if changed:
            told = ", ".join(f"{key}={value}" for key, value in changed.items())
            note(__name__, f"recipe: followed but for {told}, so another video")
        return with_defaults(changed, before)

    def options(self, model: Model, kernel: bool = True) -> dict[str, Any]:
        """The `Options` that it was made with, as far as it says, and those of the kernel that this machine can."""
        before, found = self.made_with, {}
        if "passes" in before:
            found["passes"] = before["passes"]
        if "decoding" in before:
            found["decoding"] = Way(**before["decoding"])
        if kernel and "kernel" in before and model.attention.refusal(before["kernel"]) is None:
            found["kernel"] = before["kernel"]
        return found

    def check_weights(self, model: Model) -> None:
        """Refuse to remake a video with other weights than its own."""
        recorded, own = self.record["weights"], model.parts.fingerprints
        if recorded != own:
            other = ", ".join(part for part, digest in own.items() if recorded.get(part) != digest)
            raise InputError(f"{self.where}: made with other weights ({other}) than model={model.parts.name} has")

    def layout(self, pipe: Pipe, request: Request, memory: str = "check") -> Layout | None:
        """The layout that it was made in; alone in its shape where that is not known or needs too much."""
        layout = self.made_with.get("layout")
        if layout is None:
            return layout_alone(pipe, request, self.record.get("generated"))
        fitting(pipe, layout, [request], f"{self.where}: its record: made_with.layout")
        if len(layout["shapes"]) == 1:
            return layout
        try:
            plan(pipe, [request], memory, layout)
        except InputError as error:
            note(__name__, f"recipe: made alone, not in its pack, so pixels may differ within rounding ({error})")
            return layout_alone(pipe, request, asdict(made_in(layout, pipe.stride)))
        return layout

    def tell_differences(self, model: Model) -> None:
        """Say in a line what is not as it was, which may change pixels."""
        before = {**self.made_with, **self.record.get("versions", {})}
        now = {**model.made_with, **VERSIONS}
        if other := [f"{key}={before[key]}, now {now[key]}" for key in now if before.get(key, now[key]) != now[key]]:
            note(__name__, f"recipe: made with {'; '.join(other)}: pixels may differ within rounding")


def layout_alone(model: Model, request: Request, generated: Mapping[str, Any] | None) -> Layout | None:
    """One request's layout at the shape of a record, which may not be the one that is made for it now."""
    if generated is None:
        return None
    shape = VideoShape(*(generated[key] for key in ("frames", "height", "width"))).latent(model.stride)
    layout = {**layouts(model, [request])[0], "shapes": [[shape.frames, shape.height, shape.width]]}
    return fitting(model, layout, [request], "recipe: its record: generated")
