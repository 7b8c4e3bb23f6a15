/** One moving chart, drawn by uPlot. */
import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { colourOf, useWidth } from "../canvas";
import { isDark } from "../store";
import { type Point, points, type Series, times } from "./history";

export interface Line {
  series: Series;
  label: string;
}

interface Props {
  title: string;
  lines: Line[];
  format: (value: number) => string;
  /** The top of the scale, where it is known; else what the lines need. */
  most?: number;
}

const HEIGHT = 140;
const LETTER = 6.2;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const DASHES = [[], [6, 4], [2, 3]];

function dataOf(lines: Line[], all: Point[]): uPlot.AlignedData {
  return [times.value, ...lines.map(({ series }) => all.map((each) => each[series]))] as uPlot.AlignedData;
}

export function Chart({ title, lines, format, most }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const at = useSignal<number | null>(null);
  useEffect(() => {
    const element = box.current!;
    const axis: uPlot.Axis = {
      stroke: colourOf(element, "--muted"),
      grid: { stroke: colourOf(element, "--line"), width: 1 },
      ticks: { show: false },
      font: `11px ${getComputedStyle(element).fontFamily}`,
    };
    const options: uPlot.Options = {
      width: Math.max(100, element.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "live" }, points: { size: 6 }, drag: { setScale: false, x: false, y: false } },
      scales: {
        x: { range: minuteOrMore },
        y: { range: (_, low, high) => rangeOf(low, high, most) },
      },
      axes: [
        { ...axis, size: 30, gap: 8, space: 80, values: (_, all) => all.map((each) => clock.format(each * 1000)) },
        { ...axis, size: (_, values) => widthOf(values), space: 34, values: (_, all) => all.map(format) },
      ],
      series: [
        {},
        ...lines.map((_, index) => ({
          stroke: colourOf(element, `--series-${index + 1}`),
          width: 2,
          dash: DASHES[index]!,
          points: { size: 4 },
          spanGaps: false,
        })),
      ],
      hooks: { setCursor: [(self) => (at.value = self.cursor.idx ?? null)] },
    };
    plot.current = new uPlot(options, dataOf(lines, points.peek()), element);
    return () => plot.current?.destroy();
  }, [isDark()]);
  const width = useWidth(box);
  useEffect(() => {
    if (width) plot.current?.setSize({ width, height: HEIGHT });
  }, [width]);
  const all = points.value;
  useEffect(() => plot.current?.setData(dataOf(lines, all)), [all]);
  const shown = at.value === null || at.value >= all.length ? all.at(-1) : all[at.value];
  const said = (series: Series) => {
    const value = shown?.[series];
    return value === null || value === undefined ? "–" : format(value);
  };
  const summary = lines.map(({ series, label }) => `${label} ${said(series)}`).join(", ");
  return (
    <figure class="chart card">
      <figcaption>
        <h3>{title}</h3>
        <ul>
          {lines.map(({ series, label }, index) => (
            <li key={series}>
              <span class={`key series-${index + 1}`} aria-hidden="true" />
              {label} <strong class="number">{said(series)}</strong>
            </li>
          ))}
        </ul>
      </figcaption>
      <div ref={box} role="img" aria-label={`${title}: ${summary}`} />
    </figure>
  );
}

function rangeOf(_: number | null, high: number | null, most?: number): [number, number] {
  return [0, most ?? (high && high > 0 ? high * 1.1 : 1)];
}

/** From the first point on. Not by uPlot's own ends: those of a single point are a day apart. */
function minuteOrMore(): [number, number] {
  const start = times.peek()[0] ?? Date.now() / 1000;
  return [start, Math.max(times.peek().at(-1) ?? start, start + 60)];
}

/** Of labels of the vertical axis, in pixels. */
function widthOf(values: string[] | null): number {
  return 14 + LETTER * Math.max(3, ...(values ?? []).map((each) => each.length));
}
