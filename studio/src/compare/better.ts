// What a good value of a score is, as `kinolab.metrics` has it (tests/studio/test_page_words.py holds them together).

/** Scores of which less is better. */
const LOWER = [
  "flicker", "warp", "lpips", "rfvd", "fvd", "fvd_infinite", "kvd", "fid", "kid", "roughness", "position_error",
  "contact_error", "momentum", "energy", "timing", "colour_error", "place_error", "seconds_per_clip", "run_seconds",
  "peak_memory", "disk_bytes", "cost",
];
/** Scores of which one is best. */
const ONE = [
  "grid", "detail", "seam",
];

/** A longer name is that of its first words: "lpips_alex" is an LPIPS. */
const among = (names: string[], metric: string) => names.some((name) => metric === name || metric.startsWith(`${name}_`));

/** A number that is larger for a better value; a clip without one comes first among the worst. */
export function goodness(metric: string, value: unknown): number {
  if (typeof value !== "number") return -Infinity;
  return among(ONE, metric) ? -Math.abs(value - 1) : among(LOWER, metric) ? -value : value;
}
