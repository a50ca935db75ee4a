// What `kinolab data check` says of a clip, as a badge.
import type { Verdict } from "../lib/api";

export interface Badge {
  kind: "yes" | "warn" | "no" | "";
  word: string;
  reason: string;
}

export function badge(verdict: Verdict | undefined, use: boolean): Badge {
  if (!use) return { kind: "", word: "left out", reason: "left out by you" };
  if (!verdict) return { kind: "", word: "unchecked", reason: "not checked yet" };
  const reason = [...verdict.dropped, ...verdict.notes].join("; ");
  if (!verdict.kept) return { kind: "no", word: "not used", reason: reason || "no window fits" };
  const word = verdict.kept === 1 ? "1 window" : `${verdict.kept} windows`;
  return { kind: verdict.dropped.length || verdict.notes.length ? "warn" : "yes", word, reason: reason || "all of it is used" };
}
