"""A file that libav has open: its container, its video stream and what decodes it (part of `kinolab.video`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from kinolab.errors import InputError
from kinolab.video.codec import av
from kinolab.video.files import unreadable

if TYPE_CHECKING:
    from av.container import InputContainer

# Names of libav's demuxers: without a list it would also take text files and playlists for video.
_DEMUXERS = "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,nut,h264,hevc,obu,m4v,yuv4mpegpipe,mxf,rm,dv"
# These seek by an index of frames or by time stamps; in others (gif) a frame needs all those before it.
_SEEKABLE = frozenset({"mov", "matroska", "avi", "mpegts", "flv", "asf", "nut", "mxf"})
# libav's own decoders leave out the layer that holds the transparency.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class Opened:
    """An open file. `tick` is the unit of its times in seconds, `rate` the frames per second that its header states,
    `frame_ticks` the length of a frame at that rate.

    Args:
        threads: decoder threads.

    Raises:
        InputError: not a video that can be read, or no video stream in it.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.container = self._open()
        self.formats = frozenset(self.container.format.name.split(","))
        try:
            self.stream = self._choose()
            self.context, self.alpha = self.stream.codec_context, False
            if self._says_alpha() and self.context.name in _ALPHA_DECODERS:
                self.context, self.alpha = self._alpha_decoder(), True
        except InputError:
            self.close()
            raise
        self.context.thread_type = "AUTO"
        self.context.thread_count = threads
        assert self.stream.time_base is not None
        self.tick = self.stream.time_base
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        if "gif" in self.formats and self.stream.frames and self.stream.duration:
            self.rate = self.stream.frames / (self.stream.duration * self.tick)  # delays of 4, 4, 5 ticks are not 25
        self.frame_ticks = 1 / (self.rate * self.tick)

    @property
    def seekable(self) -> bool:
        """Whether the format can be entered at a key frame."""
        return bool(self.formats & _SEEKABLE)

    @property
    def holds_last(self) -> bool:
        """Whether the last frame is shown until the end that the header states: the format stores no length for it."""
        return "matroska" in self.formats

    def close(self) -> None:
        """Let go of the file."""
        self.container.close()

    def packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """The packets of the video stream from here on, and an empty one at the end."""
        return self.container.demux(self.stream)

    def go_to(self, ticks: int) -> bool:
        """Stand before the last key frame at or before a time; false where the format can't."""
        try:
            self.container.seek(ticks, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return False
        if self.alpha:
            self.context.flush_buffers()  # the container knows its own decoder only
        return True

    def _open(self) -> InputContainer:
        name = f"file:{os.path.abspath(self.path)}"
        try:
            # A name from another encoding in the metadata must not stop a read.
            return av.open(name, options={"format_whitelist": _DEMUXERS}, metadata_errors="replace")
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            raise InputError(f"{self.path}: {unreadable(self.path)}") from None

    def _choose(self) -> av.VideoStream:
        """The first stream of moving pictures."""
        covers = [s for s in self.container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
        videos = [s for s in self.container.streams.video if s not in covers and s.codec_context is not None]
        if videos:
            return videos[0]
        kinds = sorted({stream.type for stream in self.container.streams})
        if covers:
            raise InputError(f"{self.path}: no video stream, only audio with a cover picture")
        if "video" in kinds:
            raise InputError(f"{self.path}: its video stream is damaged or in a codec that is not known")
        raise InputError(f"{self.path}: no video stream, only {', '.join(kinds) or 'an empty container'}")

    def _says_alpha(self) -> bool:
        """Whether the header, or a tag (as some writers have it), says that there is a layer of transparency."""
        return any(key.lower() == "alpha_mode" and value == "1" for key, value in self.stream.metadata.items())

    def _alpha_decoder(self) -> av.VideoCodecContext:
        name = _ALPHA_DECODERS[self.stream.codec_context.name]
        try:
            decoder = av.CodecContext.create(name, "r")
        except (av.error.FFmpegError, ValueError):
            raise InputError(
                f"{self.path}: has transparent parts, which this build of PyAV can't read: it has no {name}"
            ) from None
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.extradata = self.stream.codec_context.extradata
        return decoder
