// Keys of a list of tabs: arrows go from one to the next and choose it, Home and End to the ends.
import type { Attachment } from "svelte/attachments";

export const tabs: Attachment<HTMLElement> = (list) => {
  function key(event: KeyboardEvent) {
    const all = [...list.querySelectorAll<HTMLElement>("[role=tab]")];
    const now = all.indexOf(document.activeElement as HTMLElement);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined || now < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const tab = all[(next + all.length) % all.length];
    tab?.click();
    tab?.focus();
  }
  list.addEventListener("keydown", key);
  return () => list.removeEventListener("keydown", key);
};
