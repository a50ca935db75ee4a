// The tasks of sampling, what each is given, and how a made video's settings become a command's options again.
import type { Option } from "../lib/api";

export interface Task {
  id: string;
  name: string;
  about: string;
  gives: "" | "clip" | "images";
}

export const TASKS: Task[] = [
  { id: "generate", name: "Generate", about: "A video from words or a label alone.", gives: "" },
  { id: "animate", name: "From images", about: "The video that an image begins, or that goes from image to image.", gives: "images" },
  { id: "predict", name: "Predict", about: "What follows the first frames of a clip.", gives: "clip" },
  { id: "interpolate", name: "Between frames", about: "The frames that lie between those of a clip.", gives: "clip" },
  { id: "complete", name: "Paint a mask", about: "What is painted over in a clip is made anew.", gives: "clip" },
  { id: "extend", name: "Extend", about: "A clip goes on, window by window.", gives: "clip" },
  { id: "edit", name: "Edit", about: "A clip shows something else, and moves as it did.", gives: "clip" },
  { id: "control", name: "Control", about: "A video that follows the edges, lines or depth of a clip.", gives: "clip" },
];

/** Options that have a place of their own on the page, in the order that they stand there. */
export const FIRST = ["prompt", "negative", "label", "model", "clip", "images", "mask", "box", "shown", "map"];
export const PLAIN = ["seed", "count", "frames", "size", "fps", "steps", "guidance", "sampler", "given", "at", "every", "insert", "keyframes", "strength", "start", "lora"];
export const HIDDEN = ["out", "prompts", "device", "returns"];
/** Options of which a grid may try several values. */
export const VARIED = ["steps", "guidance", "sampler", "strength", "fps", "frames", "eta", "refine", "given", "weight"];

export type Values = Record<string, unknown>;

/** A text of the form as the value of an option; undefined where it is empty, the text where it is no number. */
export function valueOf(option: Option, text: string): unknown {
  const bare = text.trim();
  if (!bare) return undefined;
  if (option.kind !== "int" && option.kind !== "float") return bare;
  const value = Number(bare);
  return Number.isFinite(value) ? value : bare;
}

/** What is given, without what is empty or as it is anyway, and only what the command has. */
export function sent(options: Option[], values: Values): Values {
  const found: Values = {};
  for (const option of options) {
    const value = values[option.name];
    if (value === undefined || value === null || value === "" || (Array.isArray(value) && !value.length)) continue;
    if (!option.required && JSON.stringify(value) === JSON.stringify(option.default)) continue;
    if (option.kind === "flag" && value === false) continue;
    found[option.name] = value;
  }
  return found;
}

const record = (value: unknown): Values => (value && typeof value === "object" && !Array.isArray(value) ? (value as Values) : {});

/** The task and the options that a request of a made video came from; what was the model's own is written out. */
export function restored(request: Values): { task: string; values: Values } {
  const given = record(request.given);
  const source = record(request.source);
  const map = Object.values(record(request.control))[0];
  const task = typeof given.task === "string" ? given.task : Object.keys(source).length ? "edit" : map ? "control" : "generate";
  const sampler = record(request.sampler);
  const guidance = record(request.guidance);
  const size = Array.isArray(request.size) ? request.size.join("x") : undefined;
  const lora = (Array.isArray(request.lora) ? request.lora : []).map(record).map((use) => `${use.path ?? use.file}:${use.weight ?? 1}`);
  const values: Values = {
    prompt: request.prompts, negative: request.negative, label: request.label === null ? undefined : String(request.label),
    model: request.model, seed: request.seed, count: request.count, frames: request.frames, size, fps: request.fps,
    steps: sampler.steps, sampler: sampler.name, eta: sampler.eta || undefined, guidance: guidance.scale,
    guidance_rescale: guidance.rescale || undefined, lora: lora.length ? lora : undefined, precision: request.precision,
    compile: request.compile || undefined,
  };
  const taken = task === "edit" ? source : given;
  for (const name of ["given", "past", "every", "insert", "mask", "start", "overlap", "stride", "loop", "resize", "keep", "method",
    "weight", "error", "way", "strength", "refine", "images"]) {
    const value = taken[name];
    if (value !== null && value !== undefined && value !== false && !(Array.isArray(value) && !value.length)) values[name] = value;
  }
  for (const name of ["at", "keyframes"]) if (Array.isArray(taken[name]) && (taken[name] as unknown[]).length) values[name] = (taken[name] as unknown[]).join(",");
  if (Array.isArray(taken.boxes) && taken.boxes.length) values.box = taken.boxes.map((box) => (box as number[]).join(","));
  if (typeof taken.video === "string") values.clip = taken.video;
  if (task === "control" && typeof map === "string") values.clip = map;
  if (task === "edit" && typeof source.prompt === "string") values.shown = source.prompt;
  return { task, values: Object.fromEntries(Object.entries(values).filter(([, v]) => v !== null && v !== undefined)) };
}

/** Whether an error of a command says no more than that something is not given yet. */
export const isMissing = (error: string): boolean => /^kinolab [a-z ]+: expected [a-z_]+: /.test(error);

/** An error of a command as it stands at a field, whose name stands there already. */
export const atField = (error: string): string =>
  isMissing(error) ? `is needed: ${error.replace(/^kinolab [a-z ]+: expected [a-z_]+: /, "").replace(/^[A-Z](?=[a-z ])/, (c) => c.toLowerCase())}`
    : error.replace(/^kinolab [a-z ]+: /, "").replace(new RegExp(`^${fieldOf(error)}: `), "");

/** The option that an error of a command names: "kinolab generate: steps: expected int, got 'x'". */
export const fieldOf = (error: string): string => /^kinolab [a-z ]+: (?:expected )?([a-z_]+):/.exec(error)?.[1] ?? "";
