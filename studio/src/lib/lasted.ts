// How long work of a kind took when it was last done: what tells its time where it tells nothing itself.
const KEY = "kinolab-lasted";

function all(): Record<string, number> {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}") as Record<string, number>;
  } catch {
    return {};
  }
}

/** Seconds, or null where it was never done here. */
export const lasted = (kind: string): number | null => all()[kind] ?? null;

export const keep = (kind: string, seconds: number): void =>
  localStorage.setItem(KEY, JSON.stringify({ ...all(), [kind]: Math.round(10 * seconds) / 10 }));
