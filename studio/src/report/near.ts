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

/** A video that a click, Enter or space plays and stops. */
export function turned(video: HTMLVideoElement) {
  const turn = () => void (video.paused ? video.play().catch(() => {}) : video.pause());
  const key = (event: KeyboardEvent) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    turn();
  };
  video.addEventListener("click", turn);
  video.addEventListener("keydown", key);
  return () => {
    video.removeEventListener("click", turn);
    video.removeEventListener("keydown", key);
  };
}

/** Small frames are enlarged without smoothing. */
export const small = (event: Event) => {
  const video = event.currentTarget as HTMLVideoElement;
  video.classList.toggle("pixels", Math.min(video.videoWidth, video.videoHeight) <= 256);
};
