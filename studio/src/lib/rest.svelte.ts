// Whether somebody is at the page. What plays by itself stands still where nobody did anything for a while: it would take
// from the processor on which a training computes.
const AFTER = 60_000; // milliseconds

class Rest {
  resting = $state(false);
  private last = Date.now();
  private timer = 0;

  constructor() {
    for (const name of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "focus"]) addEventListener(name, this.wake, { passive: true, capture: true });
    this.wait(AFTER);
  }

  private wake = () => {
    this.last = Date.now();
    if (!this.resting) return;
    this.resting = false;
    this.wait(AFTER);
  };

  private wait(after: number) {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      const left = this.last + AFTER - Date.now();
      if (left > 0) this.wait(left);
      else this.resting = true;
    }, after);
  }
}

export const rest = new Rest();
