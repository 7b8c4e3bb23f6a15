/** What drawings need: their width, and colours as a canvas takes them. */
import { useSignal } from "@preact/signals";
import type { RefObject } from "preact";
import { useEffect } from "preact/hooks";

/** The width of an element in pixels; 0: not known yet. */
export function useWidth(box: RefObject<HTMLElement | null>): number {
  const width = useSignal(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => (width.value = Math.floor(entry!.contentRect.width)));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  return width.value;
}

/** The colour of a variable of the style sheet: a canvas knows neither variables nor light-dark(). */
export function colourOf(element: HTMLElement, variable: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
