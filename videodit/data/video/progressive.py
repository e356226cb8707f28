"""Interlaced frames, which hold two moments in alternate lines, made whole: FFmpeg's bwdif."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph


class _Kind(NamedTuple):
    """What a filter is made for."""

    width: int
    height: int
    format: str


def progressive(images: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames of a stream in their order and at their times: those that say they are interlaced are shown as at the
    moment of their first field. What stays between a frame and its neighbours keeps all its lines.
    """
    graph: Graph | None = None
    kind: _Kind | None = None
    waiting: deque[tuple[int | None, int | None, int]] = deque()  # pts, dts, duration of what the filter holds
    for image in images:
        if graph is None and not image.interlaced_frame:
            yield image
            continue
        if graph is None or kind != _kind(image):  # a stream may change its size on the way
            yield from _pulled(graph, waiting, last=True)
            graph, kind = _filter(image), _kind(image)
        waiting.append((image.pts, image.dts, image.duration))
        image.pts = len(waiting) if image.pts is None else image.pts
        graph.push(image)
        yield from _pulled(graph, waiting)
    yield from _pulled(graph, waiting, last=True)


def _kind(image: VideoFrame) -> _Kind:
    return _Kind(image.width, image.height, image.format.name)


def _filter(image: VideoFrame) -> Graph:
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(width=image.width, height=image.height, format=image.format, time_base=image.time_base)
    # A frame for each frame, and those that are whole already as they are.
    bwdif, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _pulled(
    graph: Graph | None, waiting: deque[tuple[int | None, int | None, int]], *, last: bool = False
) -> Iterator[VideoFrame]:
    """What a filter has ready, with the times that it came with."""
    import av

    if graph is None:
        return
    if last:
        graph.push(None)
    while waiting:
        try:
            image = graph.pull()
        except (av.BlockingIOError, av.EOFError):  # it waits for the frame that comes next, or has given all
            return
        image.pts, image.dts, image.duration = waiting.popleft()
        yield image
