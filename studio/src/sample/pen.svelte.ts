// A pen that keys move over a canvas: arrows move it, space puts it down and lifts it, and down it draws as a pointer does.
/** Parts of the longer side that a key moves it by; with shift by more. */
const STEP = 1 / 64;
const FAR = 4;

interface Drawn {
  begin: (at: [number, number]) => void;
  move: (at: [number, number]) => void;
  end: () => void;
}

export class Pen {
  /** Where it is, as shares of width and height. */
  x = $state(0.5);
  y = $state(0.5);
  down = $state(false);
  /** Whether keys move it now: it is not seen where a pointer paints. */
  shown = $state(false);

  constructor(
    private size: () => [number, number],
    private drawn: Drawn,
  ) {}

  private at(): [number, number] {
    const [width, height] = this.size();
    return [this.x * width, this.y * height];
  }

  /** What a key does; whether it does anything. */
  key(event: KeyboardEvent): boolean {
    if (event.key === " " || event.key === "Enter") {
      if (this.down) this.lift();
      else {
        this.shown = this.down = true;
        this.drawn.begin(this.at());
      }
      return true;
    }
    if (event.key === "Escape" && this.down) {
      this.lift();
      return true;
    }
    const [right, below] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
    if (!right && !below) return false;
    const [width, height] = this.size();
    const by = Math.max(width, height) * STEP * (event.shiftKey ? FAR : 1);
    this.shown = true;
    this.x = Math.min(1, Math.max(0, this.x + (right! * by) / width));
    this.y = Math.min(1, Math.max(0, this.y + (below! * by) / height));
    if (this.down) this.drawn.move(this.at());
    return true;
  }

  lift() {
    if (!this.down) return;
    this.down = false;
    this.drawn.end();
  }

  /** A pointer paints, or the keys go elsewhere. */
  away() {
    this.lift();
    this.shown = false;
  }
}
