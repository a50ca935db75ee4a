// A run's log as curves: each loss by step, over every resumption, as the run's folder holds it.
import type { Row } from "./api";

export interface Line {
  name: string;
  steps: number[];
  values: number[];
}

const META = new Set(["step", "kind", "seconds", "kinolab.crc32"]);
/** Numbers of a step that are no losses; they are shown apart. */
const SIDE = /grad_norm|seconds|^t$|^lr$|learning_rate|per_second/;

export function curves(rows: Row[], kind: string, side = false): Line[] {
  const found = new Map<string, Line>();
  for (const row of rows) {
    if (row.kind !== kind) continue;
    for (const [name, value] of Object.entries(row)) {
      if (META.has(name) || typeof value !== "number" || SIDE.test(name) !== side) continue;
      const line = found.get(name) ?? { name, steps: [], values: [] };
      found.set(name, line);
      line.steps.push(row.step);
      line.values.push(value);
    }
  }
  return [...found.values()];
}

/** The losses, and what was measured on held-out data beside those of the same name. */
export function losses(rows: Row[]): { title: string; series: Line[] }[] {
  const train = curves(rows, "train");
  const heldout = curves(rows, "heldout");
  const main = train.filter((line) => line.name === "loss");
  const beside = heldout.filter((line) => line.name === "loss").map((line) => ({ ...line, name: "held-out loss" }));
  const same = (line: Line) => line.values.every((value, k) => value === main[0]?.values[k]);
  const parts = train.filter((line) => line.name !== "loss" && !same(line)).slice(0, 4);
  const others = heldout.filter((line) => line.name !== "loss").slice(0, 4);
  return [
    { title: "Loss", series: [...main, ...beside] },
    { title: "Parts of the loss", series: parts },
    { title: "Held out", series: others },
  ].filter((chart) => chart.series.length);
}
