// Everything that the page asks of the server. Errors are one line that says what is wrong and what to do.

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function read<T>(answer: Response): Promise<T> {
  let body: unknown = null;
  try {
    body = await answer.json();
  } catch {
    throw new ApiError(`the studio answered with status ${answer.status} and no JSON`, answer.status);
  }
  if (!answer.ok) {
    const error = (body as { error?: string }).error ?? `status ${answer.status}`;
    throw new ApiError(error, answer.status);
  }
  return body as T;
}

async function ask<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? { "x-kinolab": "1" } : { "x-kinolab": "1", "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("the studio does not answer: is `kinolab studio` still running?", 0);
  }
  return read<T>(answer);
}

export const get = <T>(path: string, signal?: AbortSignal) => ask<T>("GET", path, undefined, signal);
export const post = <T>(path: string, body: unknown = {}, signal?: AbortSignal) => ask<T>("POST", path, body, signal);
export const put = <T>(path: string, body: unknown) => ask<T>("PUT", path, body);
export const del = <T>(path: string) => ask<T>("DELETE", path);

/** A path of the project as part of an address. */
export const coded = (path: string) => path.split("/").map(encodeURIComponent).join("/");

/** The address of a picture or video of the project, such as samples/a.mp4; `mark` makes it another when it changed. */
export const fileUrl = (path: string, mark?: number) => `/files/${coded(path)}${mark ? `?m=${mark}` : ""}`;

/** The names, FOLDER/NAME, of files that came in a folder: a file itself knows none. */
export const placed = new WeakMap<File, string>();

/** The folder that a file was dropped in with. */
export const home = new WeakMap<File, string>();

/** Send a file as it is; `told` hears how much of it has gone. */
export function upload<T>(path: string, file: File, told?: (share: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
    request.open("POST", `${path}?name=${encodeURIComponent(placed.get(file) ?? file.name)}`);
    request.setRequestHeader("x-kinolab", "1");
    request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (event) => told?.(event.total ? event.loaded / event.total : 0);
    request.onerror = () => reject(new ApiError(`${file.name}: could not be sent; is the studio still running?`, 0));
    request.onload = () => {
      let body: unknown = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        reject(new ApiError(`${file.name}: status ${request.status}`, request.status));
        return;
      }
      if (request.status >= 400) reject(new ApiError((body as { error: string }).error, request.status));
      else resolve(body as T);
    };
    request.send(file);
  });
}

export type State = "waiting" | "running" | "stopping" | "stopped" | "failed" | "done";

export interface Progress {
  done: number;
  total: number;
  time: number;
}

export interface Job {
  id: string;
  command: string;
  title: string;
  device: string;
  made: number;
  state: State;
  run: string | null;
  out: string | null;
  message: string;
  ended: number | null;
  began?: number;
  stage?: string;
  unit?: string;
  since?: number;
  progress?: Progress;
  first?: Progress;
  expect?: number | null;
  note?: string;
  /** Of a job whose request can't be read. */
  damaged?: boolean;
  files?: { path: string; what: string }[];
}

export interface JobDetail extends Job {
  copied: string;
  lines: string[];
  values: Record<string, unknown>;
}

/** What a request that has no answer yet is at. */
export interface Doing {
  what: string;
  of: string;
  /** In seconds since 1970; null while it waits for others. */
  began: number | null;
  done: number;
  total: number;
}

export interface Queue {
  jobs: Job[];
  paused: boolean;
  /** What is wrong with its order, and what to do. */
  problem?: string;
}

export interface Project extends Queue {
  name: string;
  folder: string;
  version: string;
  tasks: string[];
  commands: string[];
}

export interface Option {
  name: string;
  flag: string;
  kind: "flag" | "int" | "float" | "text" | "path" | "choice";
  many: boolean;
  required: boolean;
  help: string;
  default: unknown;
  choices: string[];
  least: number | null;
  most: number | null;
  rare: boolean;
}

export interface ClipInfo {
  width: number;
  height: number;
  frames: number | null;
  fps: number;
  seconds: number | null;
  codec: string;
  container: string;
  pixels: string;
  audio: boolean;
  notes: string[];
  plays: boolean;
}

export interface Edit {
  use?: boolean;
  parts?: { start: number; end: number }[];
  crop?: number[];
}

export interface Clip {
  name: string;
  bytes: number;
  caption: string;
  info: ClipInfo | null;
  sha256: string | null;
  edit: Edit;
  /** The table that tells its caption; null where that stands beside it. */
  table: string | null;
}

export interface Verdict {
  source: string;
  kept: number;
  split: "train" | "heldout" | "all";
  dropped: string[];
  notes: string[];
  frames: number | null;
  fps: number | null;
  size: [number, number] | null;
  caption: string | null;
  label: number | null;
  signals: Record<string, number | null>;
}

export interface Checked {
  frames: number;
  size: [number, number];
  notes: string[];
  totals: Record<string, number>;
  verdicts: Verdict[];
}

/** A clip that looks as an earlier one does: which, by what share, and whether it is the same file. */
export interface Like {
  of: string;
  share: number;
  same?: boolean;
}

export interface Recipe {
  name: string;
  about: string;
  kind: string;
  ships: boolean;
  /** Why it can't be read. */
  problem?: string;
}

/** A clip near a threshold; `there`: whether its source is one of the project's clips. */
export interface EdgeClip {
  source: string;
  start: number;
  end: number;
  value: number;
  why: string;
  there: boolean;
}

export interface Curation {
  path: string;
  changed: number;
  pages: string[];
  problem: string;
  clips?: number;
  kept?: number;
  hours?: number;
  hours_kept?: number;
  costs?: { bound: string; clips: number; hours: number; more_clips: number; more_hours: number }[];
  problems?: { video: string; problem: string }[];
  scores?: { name: string; least: number; median: number; most: number; count: number }[];
  edges?: { bound: string; score: string; dropped: EdgeClip[]; kept: EdgeClip[] }[];
  written?: boolean;
}

export interface Field {
  key: string;
  type: "flag" | "int" | "float" | "text" | "path" | "choice" | "kind" | "yaml" | "fixed";
  value: unknown;
  default: unknown;
  changed: boolean;
  choices: (string | number)[];
  optional: boolean;
  bounds?: Record<string, number>;
  about: string;
}

/** What has to be there before a recipe can be trained. */
export interface Need {
  key: string;
  what: "clips" | "latents" | "model";
  path: string;
  there: boolean;
  encode?: Record<string, unknown>;
}

/** Folders of clips, latent caches, models that caption, and YAML files that may be a curation's settings. */
export interface Folders {
  clips: string[];
  caches: string[];
  captioners: string[];
  settings: string[];
}

export interface Recipes extends Folders {
  recipes: Recipe[];
}

export interface Form {
  recipe: string;
  name: string;
  kind: string;
  needs: Need[];
  fields: Field[];
  errors: Record<string, string>;
  yaml: string;
  settings: string[];
}

export interface Run {
  name: string;
  path: string;
  running: boolean;
  model: string | null;
  resumable: boolean;
  changed: number;
  size: number;
}

export interface RunSample {
  step: number | null;
  name: string;
  path: string;
}

export interface RunDetail extends Run {
  recipe: Record<string, unknown> | null;
  problem: string;
  checkpoints: string[];
  samples: RunSample[];
}

export interface Row {
  step: number;
  kind: "train" | "heldout" | "samples" | "event";
  seconds: number;
  [name: string]: number | string;
}

export interface Log {
  rows: Row[];
  next: number;
  restarted: boolean;
  problem: string;
}

export interface Sample {
  path: string;
  name: string;
  bytes: number;
  changed: number;
  request: Record<string, unknown> | null;
  problem?: string;
  prompt?: string | null;
  seed?: number;
  index?: number;
  frames_sha256?: string;
  kinolab?: string;
}

export interface Model {
  name: string;
  where: "project" | "run" | "shipped";
  bytes: number;
  problem?: string;
  denoiser?: string | null;
  autoencoder?: string | null;
  frames?: number | null;
  size?: [number, number] | null;
  fps?: number | null;
  text?: string | null;
  classes?: string[];
  trained?: string;
  tasks?: string[];
  sampler?: Record<string, unknown> | null;
  guidance?: Record<string, unknown> | null;
}

export interface Models {
  models: Model[];
  adapters: { path: string; bytes: number; problem?: string }[];
  folders: { path: string; bytes: number }[];
  used: number;
  free: number;
}
