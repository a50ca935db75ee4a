// What kinolab/reports/plain.py writes into a page.
export type Pairs = [string, string][];

export interface Cell {
  text: string;
  /** What its column is sorted by; null for a number that is not there. */
  key: number | string | null;
  interval?: string;
  mark?: "noise" | "better";
}

export interface Table {
  kind: "table";
  caption: string;
  columns: { name: string; number: boolean }[];
  rows: Cell[][];
}

export interface Axis {
  low: number;
  high: number;
  ticks: [number, string][];
}

export interface Histogram {
  kind: "histogram";
  title: string;
  label: string;
  edges: number[];
  counts: number[];
  hovers: string[];
  markers: { name: string; value: number; text: string }[];
  x: Axis;
  y: Axis;
  note: string;
}

export interface Curves {
  kind: "curves";
  title: string;
  x: string;
  y: string;
  log: boolean;
  series: { name: string; steps: number[]; values: (number | null)[] }[];
  note: string;
}

export interface Videos {
  kind: "videos";
  title: string;
  videos: { caption: string; url: string; scale?: { low: string; high: string; colours: string } }[];
  fps: number;
  frames: number;
  facts: Pairs;
}

export interface Worst {
  kind: "worst";
  title: string;
  text: string;
  clips: { name: string; text: string; url: string | null; scores: Pairs }[];
}

export interface Card {
  title: string;
  url: string;
  poster: string | null;
  wide: boolean;
  captions: string[];
  checks: [string, boolean][];
  facts: Pairs;
  command: string;
  links: Pairs;
}

export type Block =
  | { kind: "text"; title: string; text: string; code: boolean }
  | { kind: "facts"; title: string; values: Pairs }
  | { kind: "gallery"; cards: Card[] }
  | { kind: "fold"; title: string; blocks: Block[] }
  | Table | Curves | Histogram | Videos | Worst;

export interface Report {
  title: string;
  text: string;
  facts: Pairs;
  footer: string;
  sections: { title: string; text: string; blocks: Block[] }[];
}
