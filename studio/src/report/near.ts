// Videos that load as they come into view: a long page has more of them than a browser plays at once.
export function near(video: HTMLVideoElement) {
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    video.preload = "auto";
    seen.disconnect();
  }, { rootMargin: "300px" });
  seen.observe(video);
  return () => seen.disconnect();
}

export const turn = (video: HTMLVideoElement) => void (video.paused ? video.play().catch(() => {}) : video.pause());

/** Small frames are enlarged without smoothing. */
export const small = (event: Event) => {
  const video = event.currentTarget as HTMLVideoElement;
  video.classList.toggle("pixels", Math.min(video.videoWidth, video.videoHeight) <= 256);
};
