// Pictures of a clip at given times, taken one after the other from a player of their own that nobody sees.
const PATIENCE = 5000; // milliseconds for one of them
const FIRST = 600_000; // and for the first, before which a copy may have to be made

export class Frames {
  private video = document.createElement("video");
  private last: Promise<unknown>;
  private over = false;

  constructor(url: string) {
    this.video.muted = true;
    this.video.preload = "auto";
    this.video.src = url;
    this.last = this.heard("loadeddata", FIRST);
  }

  /** Draw the frame at a time into a box of a canvas, cut to its shape. */
  draw(time: number, canvas: HTMLCanvasElement, box: [number, number, number, number]): void {
    this.last = this.last.then(async () => {
      if (this.over) return;
      const moved = this.heard("seeked");
      this.video.currentTime = time;
      await moved;
      if (this.over || !this.video.videoWidth) return;
      const [x, y, width, height] = box;
      const scale = Math.max(width / this.video.videoWidth, height / this.video.videoHeight);
      const [w, h] = [width / scale, height / scale];
      const from = [(this.video.videoWidth - w) / 2, (this.video.videoHeight - h) / 2] as const;
      canvas.getContext("2d")?.drawImage(this.video, ...from, w, h, x, y, width, height);
    });
  }

  close(): void {
    this.over = true;
    this.video.removeAttribute("src");
    this.video.load();
  }

  private heard(event: string, patience = PATIENCE): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, patience);
      this.video.addEventListener(event, () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }
}
