// Several videos on one clock. The first one is the clock; the others are nudged by their rate towards its time, and set
// to it where they are further than a fifth of a second away. How far they are apart is measured on the frames that
// were presented (requestVideoFrameCallback), not on what the players say of themselves.
const FAR = 0.2;
const NEAR = 0.004;

export class Clock {
  playing = $state(false);
  time = $state(0);
  rate = $state(1);
  loop = $state<[number, number] | null>(null);
  /** Milliseconds between the first video and the one furthest from it: the 95th percentile of the last seconds. */
  drift = $state<number | null>(null);
  private videos: HTMLVideoElement[] = [];
  private shown = new WeakMap<HTMLVideoElement, { media: number; at: number }>();
  private apart: number[] = [];
  private frame = 0;

  /** Take a video in; what is returned lets it go. */
  join = (video: HTMLVideoElement) => {
    this.videos.push(video);
    let alive = true;
    const presented = (_: number, meta: VideoFrameCallbackMetadata) => {
      if (!alive) return;
      this.shown.set(video, { media: meta.mediaTime, at: meta.expectedDisplayTime });
      video.requestVideoFrameCallback(presented);
    };
    if ("requestVideoFrameCallback" in video) video.requestVideoFrameCallback(presented);
    video.currentTime = this.time;
    if (this.playing) video.play().catch(() => {});
    return () => {
      alive = false;
      this.videos = this.videos.filter((other) => other !== video);
    };
  };

  get seconds(): number {
    return Math.max(0, ...this.videos.map((video) => video.duration || 0));
  }

  toggle = () => (this.playing ? this.pause() : this.play());

  play = () => {
    this.playing = true;
    this.apart = [];
    const [low, high] = this.range();
    const from = this.time < low || this.time >= high - 0.02 ? low : this.time;
    for (const video of this.videos) {
      video.currentTime = Math.min(from, video.duration || from);
      video.playbackRate = this.rate;
      video.play().catch(() => {});
    }
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(this.tick);
  };

  pause = () => {
    this.playing = false;
    cancelAnimationFrame(this.frame);
    for (const video of this.videos) video.pause();
  };

  seek = (time: number) => {
    this.time = Math.min(Math.max(0, time), Math.max(0, this.seconds - 0.001));
    for (const video of this.videos) video.currentTime = Math.min(this.time, Math.max(0, (video.duration || 0) - 0.001));
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

  private tick = () => {
    const [lead, ...others] = this.videos;
    if (!this.playing || !lead) return;
    const [low, high] = this.range();
    this.time = lead.currentTime;
    if (lead.ended || this.time >= high - 0.012) {
      this.seek(low);
      for (const video of this.videos) video.play().catch(() => {});
    } else {
      for (const video of others) {
        const off = video.currentTime - this.time;
        if (video.ended || video.duration < this.time) continue; // a shorter one waits at its end
        if (Math.abs(off) > FAR) video.currentTime = this.time;
        video.playbackRate = Math.abs(off) < NEAR ? this.rate : this.rate * (off > 0 ? 0.96 : 1.04);
        if (video.paused) video.play().catch(() => {});
      }
      this.measure(lead, others);
    }
    this.frame = requestAnimationFrame(this.tick);
  };

  private measure(lead: HTMLVideoElement, others: HTMLVideoElement[]) {
    const first = this.shown.get(lead);
    if (!first || !others.length) return;
    const now = performance.now();
    // A frame's time on the clock is when it was shown, run on to now.
    const on = (shown: { media: number; at: number }) => shown.media + ((now - shown.at) / 1000) * this.rate;
    let worst = 0;
    for (const video of others) {
      const seen = this.shown.get(video);
      if (seen && now - seen.at < 1000) worst = Math.max(worst, Math.abs(on(seen) - on(first)) * 1000);
    }
    this.apart.push(worst);
    if (this.apart.length > 600) this.apart.shift();
    if (this.apart.length % 15 === 0) {
      const sorted = [...this.apart].sort((a, b) => a - b);
      this.drift = sorted[Math.floor(0.95 * (sorted.length - 1))]!;
    }
  }
}
