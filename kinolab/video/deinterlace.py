"""Whole pictures from interlaced frames (part of `kinolab.video`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kinolab.video.codec import av

if TYPE_CHECKING:
    from av.video.stream import VideoStream


def deinterlaced(frames: Iterator[av.VideoFrame], stream: VideoStream) -> Iterator[av.VideoFrame]:
    """As many frames, at the same times; those that are marked as interlaced are made whole by the filter bwdif.

    The filter looks at the frames before and after, so the first frame of a run is made of less than the others.
    """
    graph: av.filter.Graph | None = None
    shape = None
    for frame in frames:
        if graph is None or (frame.width, frame.height, frame.format.name) != shape:
            if graph is not None:
                yield from _pull(graph, last=True)
            shape = frame.width, frame.height, frame.format.name
            graph = _graph(frame, stream)
        graph.vpush(frame)
        yield from _pull(graph)
    if graph is not None:
        yield from _pull(graph, last=True)


def _graph(frame: av.VideoFrame, stream: VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base)
    whole = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(whole)
    whole.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: av.filter.Graph, last: bool = False) -> Iterator[av.VideoFrame]:
    if last:
        graph.vpush(None)
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):  # libav asks for another frame, or has no more
            return
