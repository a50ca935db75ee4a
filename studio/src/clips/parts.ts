// Parts of a clip on its time line: pure functions from one list of parts to another. Times are in seconds.
export interface Part {
  start: number;
  end: number;
}

const same = (a: number, b: number) => Math.abs(a - b) < 1e-6;

/** The parts that are stored as parts that stand on the line: none stored means all of it. */
export const shown = (stored: Part[] | undefined, seconds: number): Part[] =>
  stored?.length ? [...stored].sort((a, b) => a.start - b.start) : [{ start: 0, end: seconds }];

/** What is stored of parts: nothing where they are the whole clip. */
export const stored = (parts: Part[], seconds: number): Part[] =>
  parts.length === 1 && same(parts[0]!.start, 0) && parts[0]!.end >= seconds - 1e-6 ? [] : parts;

/** The number of the part at a time, or -1 in a gap. */
export const at = (parts: Part[], time: number): number => parts.findIndex((p) => time >= p.start - 1e-9 && time < p.end - 1e-9);

/** Cut the part at a time in two; the same list where nothing is left on one side. */
export function split(parts: Part[], time: number, least: number): Part[] {
  const k = at(parts, time);
  const part = parts[k];
  if (!part || time - part.start < least - 1e-9 || part.end - time < least - 1e-9) return parts;
  return [...parts.slice(0, k), { start: part.start, end: time }, { start: time, end: part.end }, ...parts.slice(k + 1)];
}

/** One part from a part and the one behind it, with what lies between them. */
export function merge(parts: Part[], k: number): Part[] {
  const here = parts[k];
  const next = parts[k + 1];
  if (!here || !next) return parts;
  return [...parts.slice(0, k), { start: here.start, end: next.end }, ...parts.slice(k + 2)];
}

/** Move an end of a part, up to its neighbours and no nearer to its other end than `least`. */
export function moved(parts: Part[], k: number, which: "start" | "end", time: number, least: number, seconds: number): Part[] {
  const part = parts[k];
  if (!part) return parts;
  const low = which === "start" ? (parts[k - 1]?.end ?? 0) : part.start + least;
  const high = which === "end" ? (parts[k + 1]?.start ?? seconds) : part.end - least;
  const value = Math.min(Math.max(time, low), Math.max(low, high));
  return parts.map((p, j) => (j === k ? { ...p, [which]: value } : p));
}

/** Scenes as parts, from the times at which they begin. */
export const scenes = (cuts: { time: number }[], seconds: number): Part[] =>
  cuts.map((cut, k) => ({ start: cut.time, end: cuts[k + 1]?.time ?? seconds })).filter((p) => p.end > p.start);
