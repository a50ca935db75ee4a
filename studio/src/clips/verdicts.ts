// What `kinolab data check` says of a clip, as a badge.
import type { Like, Verdict } from "../lib/api";

export interface Badge {
  kind: "yes" | "warn" | "no" | "";
  word: string;
  reason: string;
}

/** What is said of most clips, and is nothing to see to. */
const USUAL = /fills? no window|^re-timed from .* of .* frames used|^crop loses (\d|[12]\d)%/;

export function badge(verdict: Verdict | undefined, use: boolean): Badge {
  if (!use) return { kind: "", word: "left out", reason: "left out by you" };
  if (!verdict) return { kind: "", word: "unchecked", reason: "not checked yet" };
  const usual = (text: string) => USUAL.test(text);
  const all = [...verdict.dropped, ...verdict.notes];
  const serious = all.filter((text) => !usual(text));
  const reason = [...serious, ...all.filter(usual)].join("; "); // what there is to see to stands first
  if (!verdict.kept) return { kind: "no", word: "not used", reason: reason || "no window fits" };
  const word = verdict.kept === 1 ? "1 window" : `${verdict.kept} windows`;
  return { kind: serious.length ? "warn" : "yes", word, reason: reason || "all of it is used" };
}

/** What a clip is to another that it is like. */
export const alikeness = (like: Like): string => (like.same ? "the same file as" : `${Math.round(100 * like.share)} % alike to`);
