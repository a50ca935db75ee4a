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
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
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

/** How much of a job is done, by what is expected where it tells no pieces yet; undefined where nothing tells it. */
export function share(job: Job, now: number): number | undefined {
  if (job.state === "done") return 1;
  if (job.progress?.total) return job.progress.done / job.progress.total;
  return job.expect && job.since ? Math.min(0.95, (now - job.since) / job.expect) : undefined;
}

/** What is told of the time that a job at work still takes; nothing where nothing tells it. */
export function remaining(job: Job, now: number): string {
  const seconds = left(job, now);
  if (seconds === null || (job.progress && job.progress.done >= job.progress.total)) return "";
  return seconds > 0 ? `${job.progress ? "" : "about "}${duration(Math.ceil(seconds))} left` : "takes longer than expected";
}

/** The time that is left as a person wants to know it: whole seconds. */
export const remains = (seconds: number): string => `about ${duration(Math.ceil(seconds))} left`;
