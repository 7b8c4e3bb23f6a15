/** Similarities of all pairs. Pointer, touch or arrow keys choose a pair; its value is shown and said. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { colourOf, useWidth } from "../canvas";
import { colour, css, ink } from "../colours";
import type { Matrix } from "../math";
import { decimals, shortened } from "../parts";
import { isDark } from "../store";
import type { Result } from "./state";

interface Layout {
  left: number;
  top: number;
  cell: number;
  width: number;
  height: number;
}

const MOST_CELL = 64;
const LEAST_FOR_NUMBERS = 14;
const LEAST_FOR_VALUES = 34;

function layoutOf(available: number, size: number): Layout {
  const hasTexts = available >= 560 && size <= 40;
  const left = hasTexts ? Math.min(220, available * 0.3) : 28;
  const top = 22;
  const cell = Math.min(MOST_CELL, (available - left) / size);
  return { left, top, cell, width: left + cell * size, height: top + cell * size };
}

/** The smallest and largest value of different texts. */
function rangeOf({ size, values }: Matrix): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      if (i === j) continue;
      low = Math.min(low, values[i * size + j]!);
      high = Math.max(high, values[i * size + j]!);
    }
  }
  return low < high ? [low, high] : [Math.min(0, values[0] ?? 0), Math.max(1, values[0] ?? 1)];
}

function draw(canvas: HTMLCanvasElement, result: Result, layout: Layout, at: [number, number] | null): void {
  const { matrix, texts } = result;
  const { left, top, cell, width, height } = layout;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d")!;
  context.scale(scale, scale);
  const { fontFamily } = getComputedStyle(canvas);
  const [plain, muted] = [colourOf(canvas.parentElement!, "--text"), colourOf(canvas.parentElement!, "--muted")];
  const [low, high] = rangeOf(matrix);
  const image = new ImageData(matrix.size, matrix.size);
  matrix.values.forEach((value, index) => image.data.set([...colour((value - low) / (high - low)), 255], 4 * index));
  const small = new OffscreenCanvas(matrix.size, matrix.size);
  small.getContext("2d")!.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = cell < 1;
  context.drawImage(small, left, top, cell * matrix.size, cell * matrix.size);
  context.font = `12px ${fontFamily}`;
  context.textBaseline = "middle";
  for (let i = 0; i < matrix.size && cell >= LEAST_FOR_NUMBERS; i++) {
    context.fillStyle = at && (at[0] === i || at[1] === i) ? plain : muted;
    context.textAlign = "center";
    context.fillText(String(i + 1), left + (i + 0.5) * cell, top / 2);
    context.textAlign = left > 28 ? "left" : "center";
    const label = left > 28 ? fitted(context, `${i + 1}  ${shortened(texts[i]!, 80)}`, left - 10) : String(i + 1);
    context.fillText(label, left > 28 ? 0 : left / 2, top + (i + 0.5) * cell);
  }
  if (cell >= LEAST_FOR_VALUES) {
    context.textAlign = "center";
    context.font = `11px ${fontFamily}`;
    matrix.values.forEach((value, index) => {
      context.fillStyle = ink(colour((value - low) / (high - low)));
      const [row, column] = [Math.floor(index / matrix.size), index % matrix.size];
      // Without the sign of a zero.
      const shown = (Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(0)).replace(/^-(0\.?0*)$/, "$1");
      context.fillText(shown, left + (column + 0.5) * cell, top + (row + 0.5) * cell);
    });
  }
  if (at) {
    const [x, y] = [left + at[1] * cell, top + at[0] * cell];
    for (const [line, stroke] of [
      [4, "#000"],
      [2, "#fff"],
    ] as const) {
      context.lineWidth = line;
      context.strokeStyle = stroke;
      context.strokeRect(x, y, cell, cell);
    }
  }
}

function fitted(context: CanvasRenderingContext2D, text: string, width: number): string {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(`${text.slice(0, length)}…`).width > width) length--;
  return `${text.slice(0, length)}…`;
}

export function HeatMap({ result }: { result: Result }) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const available = useWidth(box);
  const at = useSignal<[number, number] | null>(null);
  const { matrix, texts, measure } = result;
  useEffect(() => {
    at.value = null;
  }, [result]);
  const layout = layoutOf(available, matrix.size);
  useEffect(() => {
    if (available) draw(canvas.current!, result, layout, at.value);
  }, [result, available, at.value, isDark()]);

  const point = (event: PointerEvent) => {
    const bounds = canvas.current!.getBoundingClientRect();
    const column = Math.floor((event.clientX - bounds.left - layout.left) / layout.cell);
    const row = Math.floor((event.clientY - bounds.top - layout.top) / layout.cell);
    const isInside = row >= 0 && column >= 0 && row < matrix.size && column < matrix.size;
    if (isInside) at.value = [row, column];
  };
  const move = (event: KeyboardEvent) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [row, column] = at.value ?? [0, 0];
    const last = matrix.size - 1;
    const within = (place: number) => Math.max(0, Math.min(last, place));
    at.value = at.value ? [within(row + by[0]!), within(column + by[1]!)] : [0, 0];
  };
  const [low, high] = rangeOf(matrix);
  return (
    <div class="heat">
      <p class="readout" aria-live="polite">
        {at.value ? (
          <>
            <strong class="number">{decimals(matrix.values[at.value[0] * matrix.size + at.value[1]]!)}</strong>
            <span>
              {at.value[0] + 1} “{shortened(texts[at.value[0]]!, 70)}”
            </span>
            <span>
              {at.value[1] + 1} “{shortened(texts[at.value[1]]!, 70)}”
            </span>
          </>
        ) : (
          <span class="hint">Point at a cell, or focus the map and use the arrow keys, to see a pair.</span>
        )}
      </p>
      <div ref={box}>
        <canvas
          ref={canvas}
          style={{ width: `${layout.width}px`, height: `${layout.height}px` }}
          tabIndex={0}
          role="application"
          aria-roledescription="heat map"
          aria-label={`${measure} of ${matrix.size} texts with each other. Arrow keys choose a pair.`}
          onPointerMove={point}
          onPointerDown={point}
          onKeyDown={move}
        />
      </div>
      <Scale low={low} high={high} measure={measure} />
      <Pairs result={result} />
    </div>
  );
}

function Scale(props: { low: number; high: number; measure: string }) {
  const colours = Array.from({ length: 24 }, (_, i) => css(colour(i / 23)));
  return (
    <div class="scale">
      <span class="number">{decimals(props.low)}</span>
      <span class="scale-bar" aria-hidden="true">
        {colours.map((each) => (
          <span key={each} style={{ background: each }} />
        ))}
      </span>
      <span class="number">{decimals(props.high)}</span>
      <span class="hint">{props.measure}, different texts</span>
    </div>
  );
}

const SHOWN_PAIRS = 5;

function Pairs({ result }: { result: Result }) {
  const { matrix, texts } = result;
  const pairs: [number, number, number][] = [];
  for (let i = 0; i < matrix.size; i++) {
    for (let j = i + 1; j < matrix.size; j++) {
      const value = matrix.values[i * matrix.size + j]!;
      if (pairs.length === SHOWN_PAIRS && value <= pairs[SHOWN_PAIRS - 1]![0]) continue;
      pairs.push([value, i, j]);
      pairs.sort((a, b) => b[0] - a[0]);
      pairs.length = Math.min(pairs.length, SHOWN_PAIRS);
    }
  }
  if (!pairs.length) return null;
  return (
    <table class="pairs">
      <caption>Most similar pairs</caption>
      <tbody>
        {pairs.map(([value, i, j]) => (
          <tr key={`${i}-${j}`}>
            <td class="number">{decimals(value)}</td>
            <td>{shortened(texts[i]!, 80)}</td>
            <td>{shortened(texts[j]!, 80)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
