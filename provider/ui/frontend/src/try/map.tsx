/** The texts in two dimensions, by principal components. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useWidth } from "../canvas";
import { shortened } from "../parts";
import type { Result } from "./state";

const EDGE = 28;
const MOST_LABELS = 60;
const LETTER = 6.4;
const LINE = 15;

interface Place {
  x: number;
  y: number;
  /** Where its label stands; null: it would cover another. */
  label: { x: number; y: number; text: string } | null;
}

/** Left, right, top and bottom of what is drawn. */
type Box = [number, number, number, number];

const overlap = (a: Box, b: Box) => a[0] < b[1] && b[0] < a[1] && a[2] < b[3] && b[2] < a[3];

function placesOf(result: Result, width: number, height: number): Place[] {
  const { points } = result.map;
  const xs = points.map((each) => each.x);
  const ys = points.map((each) => each.y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  // One scale for both axes: distances are comparable.
  const room = Math.min((width - 2 * EDGE) / (right - left || 1), (height - 2 * EDGE) / (high - low || 1));
  const places: Place[] = points.map((each) => ({
    x: width / 2 + (each.x - (left + right) / 2) * room,
    y: height / 2 - (each.y - (low + high) / 2) * room,
    label: null,
  }));
  const taken: Box[] = places.map(({ x, y }) => [x - 5, x + 5, y - 5, y + 5]);
  const longest = width < 500 ? 18 : 30;
  places.slice(0, MOST_LABELS).forEach((place, index) => {
    const text = shortened(result.texts[index]!, longest);
    const wide = text.length * LETTER;
    const { x, y } = place;
    const spots: [number, number][] = [
      ...([0, -LINE, LINE].map((by) => [x + 10, y + by]) as [number, number][]),
      ...([0, -LINE, LINE].map((by) => [x - 10 - wide, y + by]) as [number, number][]),
      ...([-LINE, LINE].map((by) => [x - wide / 2, y + by]) as [number, number][]),
    ];
    const boxOf = ([at, middle]: [number, number]): Box => [at, at + wide, middle - LINE / 2, middle + LINE / 2];
    const free = spots.find((spot) => {
      const [from, to, top, bottom] = boxOf(spot);
      const isInside = from >= 0 && to <= width && top >= 0 && bottom <= height;
      return isInside && taken.every((each, other) => other === index || !overlap(each, [from, to, top, bottom]));
    });
    if (!free) return;
    place.label = { x: free[0], y: free[1] + 4, text };
    taken.push(boxOf(free));
  });
  return places;
}

export function TextMap({ result }: { result: Result }) {
  const at = useSignal<number | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const height = Math.round(Math.min(520, Math.max(260, width * 0.66)));
  useEffect(() => {
    at.value = null;
  }, [result]);
  const hasMap = result.matrix.size >= 3;
  const places = width && hasMap ? placesOf(result, width, height) : [];
  const move = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    if (places.length) at.value = at.value === null ? 0 : (at.value + by + places.length) % places.length;
  };
  if (!hasMap) {
    return (
      <div ref={box}>
        <p class="hint">A map needs three texts or more.</p>
      </div>
    );
  }
  return (
    <div class="map" ref={box}>
      <p class="readout" aria-live="polite">
        {at.value === null ? (
          <span class="hint">Point at a text, or focus the map and use the arrow keys.</span>
        ) : (
          <span>
            {at.value + 1} “{shortened(result.texts[at.value]!, 140)}”
          </span>
        )}
      </p>
      <div
        tabIndex={0}
        role="application"
        aria-roledescription="map"
        aria-label={`Map of ${places.length} texts. Arrow keys go from text to text.`}
        onKeyDown={move}
      >
        {width > 0 && (
          <svg viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
            {places.map(
              ({ label }, index) =>
                label && (
                  <text key={index} x={label.x} y={label.y} class={at.value === index ? "chosen" : ""}>
                    {label.text}
                  </text>
                ),
            )}
            {places.map((place, index) => (
              <circle
                key={index}
                cx={place.x}
                cy={place.y}
                r={at.value === index ? 8 : 5}
                class={at.value === index ? "chosen" : ""}
                onPointerEnter={() => (at.value = index)}
                onPointerDown={() => (at.value = index)}
              />
            ))}
          </svg>
        )}
      </div>
      <p class="hint">
        Principal components 1 (across) and 2 (up) of the vectors. They hold{" "}
        <span class="number">{Math.round(100 * result.map.share)} %</span> of the variance: near points may be further
        apart in truth.
      </p>
    </div>
  );
}
