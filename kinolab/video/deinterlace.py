"""Whole pictures from interlaced frames (part of `kinolab.video`)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from kinolab.video.codec import av

if TYPE_CHECKING:
    from av.filter import Graph


def deinterlaced(frames: Iterator[av.VideoFrame], tick: Fraction) -> Iterator[av.VideoFrame]:
    """As many frames, at the same times; those that are marked as interlaced are made whole by the filter bwdif.

    The filter looks at the frames before and after, so the first frame of a run is made of less than the others.

    Args:
        tick: the unit of the frames' times, in seconds.
    """
    graph: Graph | None = None
    shape = None
    for frame in frames:
        frame.time_base = tick
        if graph is None or (frame.width, frame.height, frame.format.name) != shape:
            if graph is not None:
                graph.vpush(None)
                yield from _made(graph, tick)
            shape = frame.width, frame.height, frame.format.name
            graph = _graph(frame, tick)
        graph.vpush(frame)
        yield from _made(graph, tick)
    if graph is not None:
        graph.vpush(None)
        yield from _made(graph, tick)


def _graph(frame: av.VideoFrame, tick: Fraction) -> Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
    whole = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(whole)
    whole.link_to(sink)
    graph.configure()
    return graph


def _made(graph: Graph, tick: Fraction) -> Iterator[av.VideoFrame]:
    """What the filter has ready, in the ticks that it was given: its own are half as long."""
    while True:
        try:
            frame = graph.vpull()
        except (BlockingIOError, EOFError):  # it waits for another frame, or has no more
            return
        assert isinstance(frame, av.VideoFrame) and frame.pts is not None and frame.time_base is not None
        scale = frame.time_base / tick
        frame.pts, frame.duration, frame.time_base = round(frame.pts * scale), round(frame.duration * scale), tick
        yield frame
