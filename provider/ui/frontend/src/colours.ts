/** The scale of heat maps: cividis, which people with any colour vision see as one order. */

const STOPS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
const rgb = STOPS.map((each) => [1, 3, 5].map((at) => Number.parseInt(each.slice(at, at + 2), 16)));

export type Rgb = readonly [number, number, number];

/** The colour of a share of the scale, 0 to 1. */
export function colour(share: number): Rgb {
  const at = Math.max(0, Math.min(1, share)) * (rgb.length - 1);
  const index = Math.min(rgb.length - 2, Math.floor(at));
  const between = (part: number) =>
    Math.round(rgb[index]![part]! + (at - index) * (rgb[index + 1]![part]! - rgb[index]![part]!));
  return [between(0), between(1), between(2)];
}

export const css = ([red, green, blue]: Rgb) => `rgb(${red} ${green} ${blue})`;

/** Black or white, whichever is read better on it. */
export function ink([red, green, blue]: Rgb): string {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 125 ? "#000" : "#fff";
}
