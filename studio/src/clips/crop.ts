// The crop of a picture as shares of it: [left, top, width, height].
export type Crop = [number, number, number, number];

/** Height and width from what a person writes: 64, or 64x96 (height x width); null where it is neither. */
export function sizeOf(text: string): [number, number] | null {
  const found = /^\s*(\d+)\s*(?:x\s*(\d+)\s*)?$/.exec(text);
  if (!found) return null;
  const height = Number(found[1]);
  const width = Number(found[2] ?? found[1]);
  return height > 0 && width > 0 ? [height, width] : null;
}

/** The largest crop of an aspect (width over height) about a middle, inside the picture. */
export function largest(aspect: number, width: number, height: number, size = 1, middle: [number, number] = [0.5, 0.5]): Crop {
  const own = aspect / (width / height); // the crop's aspect in shares
  const full: [number, number] = own >= 1 ? [1, 1 / own] : [own, 1];
  const w = full[0] * Math.min(1, Math.max(0.05, size));
  const h = full[1] * Math.min(1, Math.max(0.05, size));
  return inside([middle[0] - w / 2, middle[1] - h / 2, w, h]);
}

/** A crop moved into the picture. */
export const inside = ([left, top, w, h]: Crop): Crop => [
  Math.min(Math.max(0, left), 1 - w), Math.min(Math.max(0, top), 1 - h), w, h,
];

/** How much of the picture is lost. */
export const lost = (crop: Crop): number => 1 - crop[2] * crop[3];
