// Short lines at the edge of the page: what was done, and what went wrong.
interface Note {
  id: number;
  text: string;
  bad: boolean;
}

class Notes {
  list = $state<Note[]>([]);
  private next = 1;

  add(text: string, bad: boolean) {
    const id = this.next++;
    this.list.push({ id, text, bad });
    setTimeout(() => this.drop(id), bad ? 12000 : 3500);
  }

  drop(id: number) {
    this.list = this.list.filter((note) => note.id !== id);
  }
}

export const notes = new Notes();
export const say = (text: string) => notes.add(text, false);
export const complain = (error: unknown) => {
  if (error instanceof DOMException && error.name === "AbortError") return;
  notes.add(error instanceof Error ? error.message : String(error), true);
};

/** Do something that may fail; what goes wrong is said. Whether it went well. */
export async function attempt(what: () => Promise<unknown>, done?: string): Promise<boolean> {
  try {
    await what();
  } catch (error) {
    complain(error);
    return false;
  }
  if (done) say(done);
  return true;
}
