/** Numbers for people. */

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const some = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function count(value: number): string {
  return (value >= 10_000 ? compact : value >= 100 ? whole : some).format(value);
}

export const percent = (value: number) => `${whole.format(value)} %`;

/** Of milliseconds. */
export const time = (value: number) => (value >= 1000 ? `${some.format(value / 1000)} s` : `${some.format(value)} ms`);

export function bytes(value: number): string {
  const power = value > 0 ? Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10)) : 0;
  const shown = value / 1024 ** power;
  return `${(shown >= 100 ? whole : some).format(shown)} ${UNITS[power]}`;
}

/** Of seconds, roughly. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${some.format(seconds / 3600)} h`;
}
