// Numbers as people read them.
import type { Job } from "./api";

export function bytes(count: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let k = 0;
  while (count >= 1000 && k < units.length - 1) {
    count /= 1000;
    k += 1;
  }
  return `${k === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[k]}`;
}

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

export function ago(then: number, now: number): string {
  const passed = Math.max(0, now - then);
  return passed < 45 ? "just now" : `${duration(passed)} ago`;
}

export function number(value: unknown): string {
  if (typeof value !== "number") return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(5)));
}

/** Seconds that a job still takes, told by the pieces since its first report; null where nothing tells it. */
export function left(job: Job, now: number): number | null {
  const { progress, first, expect, since } = job;
  if (progress && progress.done >= progress.total) return 0;
  if (progress && first && progress.done > first.done && progress.time > first.time) {
    const each = (progress.time - first.time) / (progress.done - first.done);
    return Math.max(0, (progress.total - progress.done) * each - (now - progress.time));
  }
  if (expect && since) return Math.max(0, expect - (now - since));
  return null;
}

export const share = (job: Job): number =>
  job.state === "done" ? 1 : job.progress && job.progress.total ? job.progress.done / job.progress.total : 0;
