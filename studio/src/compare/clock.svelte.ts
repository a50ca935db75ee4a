// Several videos on one clock. The longest one is the clock. All begin together, once each has the frame to begin with,
// and so again at the end of a loop; while they play the others are nudged by their rate towards the clock's time, and
// set to it where they are further than a fifth of a second away. How far they are apart is measured on the frames that
// were presented (requestVideoFrameCallback), not on what the players say of themselves.
import { untrack } from "svelte";

const FAR = 0.2;
/** Seconds apart that are left alone: the players' own clocks tell no finer. */
const NEAR = 0.0005;
/** Seconds in which a nudge closes what is apart. */
const CLOSE = 0.2;
/** The largest nudge, as a share of the rate. */
const MOST = 0.4;
/** Milliseconds after which a video that still loads is no longer waited for. */
const PATIENCE = 1500;

export class Clock {
  playing = $state(false);
  time = $state(0);
  rate = $state(1);
  loop = $state<[number, number] | null>(null);
  /** Of the longest video. */
  seconds = $state(0);
  /** Milliseconds between the first video and the one furthest from it: the 95th percentile of the last seconds. */
  drift = $state<number | null>(null);
  private videos: HTMLVideoElement[] = [];
  private shown = new WeakMap<HTMLVideoElement, { media: number; at: number }>();
  private apart: number[] = [];
  /** Where they began: the frame there was shown while they stood. */
  private from = 0;
  private frame = 0;
  private turn = 0;

  /** Take a video in; what is returned lets it go. What it reads of the clock is no reason to take the video in again. */
  join = (video: HTMLVideoElement) => untrack(() => {
    this.videos.push(video);
    let alive = true;
    const presented = (_: number, meta: VideoFrameCallbackMetadata) => {
      if (!alive) return;
      this.shown.set(video, { media: meta.mediaTime, at: meta.expectedDisplayTime });
      video.requestVideoFrameCallback(presented);
    };
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(presented);
    const known = () => (this.seconds = Math.max(0, ...this.videos.map(length)));
    video.addEventListener("durationchange", known);
    video.currentTime = this.time;
    known();
    if (this.playing) this.together(this.time);
    return () => {
      alive = false;
      video.removeEventListener("durationchange", known);
      this.videos = this.videos.filter((other) => other !== video);
      known();
    };
  });

  toggle = () => (this.playing ? this.pause() : this.play());

  play = () => {
    const [low, high] = this.range();
    this.playing = true;
    this.apart = [];
    this.together(this.time < low || this.time >= high - 0.02 ? low : this.time);
  };

  pause = () => {
    this.playing = false;
    this.turn += 1;
    cancelAnimationFrame(this.frame);
    for (const video of this.videos) video.pause();
  };

  seek = (time: number) => {
    this.time = Math.min(Math.max(0, time), Math.max(0, this.seconds - 0.001));
    if (this.playing) this.together(this.time);
    else this.set(this.time);
  };

  /** Show the frame that many further: its middle, which is that frame in every browser. */
  step = (by: number, fps: number) => {
    this.pause();
    const last = Math.max(0, Math.round(this.seconds * fps) - 1);
    const frame = Math.min(last, Math.max(0, Math.floor(this.time * fps + 1e-6) + by));
    this.seek((frame + 0.5) / fps);
  };

  private range(): [number, number] {
    return this.loop ?? [0, this.seconds];
  }

  private set(time: number) {
    for (const video of this.videos) {
      const wanted = Math.min(time, Math.max(0, (video.duration || time) - 0.001)); // a shorter one stays at its end
      if (Math.abs(video.currentTime - wanted) > 1e-4) video.currentTime = wanted;
    }
  }

  /** Play on from a time, all in one moment. */
  private async together(time: number) {
    const turn = ++this.turn;
    cancelAnimationFrame(this.frame);
    for (const video of this.videos) {
      video.pause();
      video.preload = "auto";
      video.playbackRate = this.rate;
    }
    this.time = time;
    this.set(time);
    await Promise.all(this.videos.map(ready));
    if (turn !== this.turn || !this.playing) return;
    this.shown = new WeakMap();
    this.from = time;
    for (const video of this.videos) if (length(video) > time) video.play().catch(() => {});
    this.frame = requestAnimationFrame(this.tick);
  }

  private tick = () => {
    const lead = this.videos.reduce<HTMLVideoElement | null>((a, b) => (a && length(a) >= length(b) ? a : b), null);
    if (!this.playing || !lead) return;
    const [low, high] = this.range();
    this.time = lead.currentTime;
    if (lead.ended || this.time >= high - 0.012) return void this.together(low);
    for (const video of this.videos) {
      if (video === lead || video.ended || video.seeking || length(video) < this.time + 0.05) continue;
      const off = video.currentTime - this.time;
      if (Math.abs(off) > FAR) video.currentTime = this.time;
      const nudge = Math.abs(off) < NEAR ? 0 : Math.max(-MOST, Math.min(MOST, -off / CLOSE));
      const rate = this.rate * (1 + nudge);
      if (Math.abs(video.playbackRate - rate) > 1e-3) video.playbackRate = rate;
      if (video.paused) video.play().catch(() => {});
    }
    this.measure(lead);
    this.frame = requestAnimationFrame(this.tick);
  };

  private measure(lead: HTMLVideoElement) {
    const now = performance.now();
    // A frame's time on the clock is when it was shown, run on to now.
    const on = (video: HTMLVideoElement) => {
      const seen = this.shown.get(video);
      return seen && seen.media > this.from + 1e-3 && now - seen.at < 1000 ? seen.media + ((now - seen.at) / 1000) * this.rate : null;
    };
    const first = on(lead);
    if (first === null || this.videos.length < 2) return;
    let worst = 0;
    for (const video of this.videos) {
      const time = on(video);
      if (time !== null) worst = Math.max(worst, Math.abs(time - first) * 1000);
    }
    this.apart.push(worst);
    if (this.apart.length > 600) this.apart.shift();
    if (this.apart.length % 15 === 0) {
      const sorted = [...this.apart].sort((a, b) => a - b);
      this.drift = sorted[Math.floor(0.95 * (sorted.length - 1))]!;
    }
  }
}

const length = (video: HTMLVideoElement): number => (Number.isFinite(video.duration) ? video.duration : 0);

/** When a video can go on from where it was set, or can't ever, or takes too long. */
function ready(video: HTMLVideoElement): Promise<void> {
  const events = ["seeked", "canplay", "error"];
  const there = () => Boolean(video.error) || (!video.seeking && video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA);
  return new Promise((resolve) => {
    const look = () => there() && done();
    const done = () => {
      clearTimeout(timer);
      for (const name of events) video.removeEventListener(name, look);
      resolve();
    };
    const timer = setTimeout(done, PATIENCE);
    for (const name of events) video.addEventListener(name, look);
    look();
  });
}
