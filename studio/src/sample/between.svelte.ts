// What a mask is between its key frames: asked of the server, which makes it by the rule that the sampling's mask has.
import { post } from "../lib/api";

/** Frames that are asked for at once. */
const BLOCK = 120;
const WAIT = 150; // milliseconds after the last change

interface Asked { frames: number; height: number; width: number; keys: { frame: number; png: string }[] }

export class Between {
  /** By frame, as a picture that has a colour where something is made anew. */
  shown = $state.raw<Map<number, ImageBitmap>>(new Map());
  private of: unknown = null;
  private blocks = new Set<number>();
  private timer = 0;
  private stop = new AbortController();

  /** Have the frames about one that lies between two keys; `mark` is another where the keys are others. */
  want(mark: unknown, frame: number, asked: () => Asked, wrong: (error: unknown) => void) {
    if (mark !== this.of) this.forget(mark);
    const block = Math.floor(frame / BLOCK);
    if (this.blocks.has(block)) return;
    this.blocks.add(block);
    clearTimeout(this.timer);
    const { signal } = this.stop;
    this.timer = window.setTimeout(async () => {
      try {
        const body = asked();
        const [first, last] = [block * BLOCK, Math.min(body.frames, (block + 1) * BLOCK) - 1];
        const { masks } = await post<{ masks: Record<string, string> }>("/api/masks/between", { ...body, first, last }, signal);
        const made = await Promise.all(Object.entries(masks).map(async ([k, png]) => [Number(k), await picture(png)] as const));
        if (!signal.aborted) this.shown = new Map([...this.shown, ...made]);
      } catch (error) {
        if (!signal.aborted) { this.blocks.delete(block); wrong(error); }
      }
    }, WAIT);
  }

  /** The keys are others: what was made of those before is of no use. */
  forget(mark: unknown = null) {
    this.of = mark;
    this.blocks.clear();
    clearTimeout(this.timer);
    this.stop.abort();
    this.stop = new AbortController();
    if (this.shown.size) this.shown = new Map();
  }
}

const picture = (png: string) => createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" }));
