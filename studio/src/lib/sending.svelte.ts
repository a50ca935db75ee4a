// Files on their way to the server: how much of each has gone, and what was wrong with it.
import { complain } from "./notes.svelte";

export interface Sent {
  id: number;
  name: string;
  bytes: number;
  share: number;
  error: string;
  /** When it began to go, in seconds since 1970; 0 = it waits. */
  began: number;
}

export class Sending {
  list = $state<Sent[]>([]);
  private next = 1;
  private last: Promise<void> = Promise.resolve();

  /** Send files one after the other; what went well leaves the list. */
  send(files: Iterable<File>, one: (file: File, told: (share: number) => void) => Promise<unknown>): Promise<void> {
    const given = [...files].map((file) => ({ file, id: this.next++ }));
    this.list.push(...given.map(({ file, id }) => ({ id, name: file.name, bytes: file.size, share: 0, error: "", began: 0 })));
    this.last = this.last.then(async () => {
      for (const { file, id } of given) {
        try {
          this.change(id, { began: Date.now() / 1000 });
          await one(file, (share) => this.change(id, { share }));
          this.drop(id);
        } catch (error) {
          this.change(id, { error: error instanceof Error ? error.message : String(error) });
        }
      }
    }).catch(complain);
    return this.last;
  }

  drop(id: number) {
    this.list = this.list.filter((sent) => sent.id !== id);
  }

  private change(id: number, values: Partial<Sent>) {
    const found = this.list.find((sent) => sent.id === id);
    if (found) Object.assign(found, values);
  }
}
