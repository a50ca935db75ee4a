// What the server tells by itself: the queue, and marks that are others where clips, runs, samples or models changed.
import { get, type Doing, type Project, type Queue } from "./api";

import { rest } from "./rest.svelte";

const SELDOM = 5; // seconds
const MARKS = ["clips", "runs", "samples", "models", "scores"] as const;
export type Mark = (typeof MARKS)[number];

class Live {
  queue = $state<Queue>({ jobs: [], paused: false });
  doing = $state<Doing[]>([]);
  marks = $state<Record<Mark, string>>({ clips: "", runs: "", samples: "", models: "", scores: "" });
  project = $state<Project | null>(null);
  /** Whether the stream is open: a page that lost its server says so, and goes on where it was. */
  connected = $state(false);
  refused = $state("");
  /** Seconds since 1970, once a second, for times that are left. */
  now = $state(Date.now() / 1000);

  private news = new Map<"jobs" | "doing" | Mark, string>();
  private source: EventSource | null = null;

  begin() {
    setInterval(() => this.take(), 1000);
    document.addEventListener("visibilitychange", () => this.take());
    this.ask();
    this.listen();
  }

  private ask() {
    get<Project>("/api/project").then(
      (project) => {
        this.project = project;
        this.queue = { jobs: project.jobs, paused: project.paused, problem: project.problem };
        this.refused = "";
        document.title = `${project.name} - Kinolab studio`;
      },
      (error: Error) => (this.refused = error.message),
    );
  }

  private listen() {
    const source = new EventSource("/api/stream");
    this.source = source;
    source.onopen = () => {
      if (!this.connected && this.project === null) this.ask();
      this.connected = true;
    };
    source.onerror = () => {
      this.connected = false;
      if (source.readyState === EventSource.CLOSED) {
        // After a refusal the browser doesn't try again by itself.
        this.source = null;
        setTimeout(() => {
          if (!this.source) this.listen();
        }, 2000);
      }
    };
    for (const name of ["jobs", "doing", ...MARKS] as const) {
      source.addEventListener(name, (event) => {
        this.news.set(name, event.data as string);
        if (!rest.resting) this.take();
      });
    }
  }

  /** Show the news. Of a page that nobody sees the last ones are kept until it is looked at again; where nobody did
   * anything for a while they are shown now and then. */
  private take() {
    const now = Date.now() / 1000;
    if (document.hidden || (rest.resting && now - this.now < SELDOM)) return;
    this.now = now;
    for (const [name, data] of this.news) {
      if (name === "jobs") this.queue = JSON.parse(data) as Queue;
      else if (name === "doing") this.doing = JSON.parse(data) as Doing[];
      else this.marks[name] = (JSON.parse(data) as string | null) ?? "";
    }
    this.news.clear();
  }
}

export const live = new Live();
