/**
 * Lines over two axes, as SVG. Pure.
 *
 * @module
 */

/** What is drawn. */
export interface Plot {
  /** The file's name, without its end. */
  name: string;
  title: string;
  /** What the x axis says. The y axis is in seconds. */
  xLabel: string;
  series: { name: string; points: [x: number, seconds: number][] }[];
}

const WIDTH = 640, HEIGHT = 360;
const LEFT = 60, RIGHT = 170, TOP = 40, BOTTOM = 50;
const COLORS = ["#0b62a4", "#c44e00", "#4a7a2c", "#7a3b8f"];

/** About five steps of 1, 2 or 5 times a power of ten from 0 to a value. */
export function ticks(most: number): number[] {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10) * power;
  const count = Math.ceil(most / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/** Draws a plot; both axes begin at 0. */
export function svgOf({ title, xLabel, series }: Plot): string {
  const points = series.flatMap(({ points }) => points);
  const xTicks = ticks(Math.max(...points.map(([x]) => x)));
  const yTicks = ticks(Math.max(...points.map(([, y]) => y)));
  const [right, bottom] = [WIDTH - RIGHT, HEIGHT - BOTTOM];
  const scale = (value: number, of: number[], from: number, to: number) =>
    Number((from + value / (of.at(-1) ?? 1) * (to - from)).toFixed(1));
  const xAt = (x: number) => scale(x, xTicks, LEFT, right);
  const yAt = (y: number) => scale(y, yTicks, bottom, TOP);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    text(LEFT, 22, title, 'font-size="14"'),
    ...xTicks.map((x) => text(xAt(x), bottom + 18, String(x), 'text-anchor="middle"')),
    text((LEFT + right) / 2, HEIGHT - 10, xLabel, 'text-anchor="middle"'),
    ...yTicks.flatMap((y) => [
      `<path d="M${LEFT} ${yAt(y)}H${right}" stroke="#ddd"/>`,
      text(LEFT - 6, yAt(y) + 4, `${y} s`, 'text-anchor="end"'),
    ]),
    ...series.flatMap(({ name, points }, index) => {
      const color = COLORS[index % COLORS.length];
      const line = points.map(([x, y]) => `${xAt(x)},${yAt(y)}`).join(" ");
      const y = TOP + 16 * index;
      return [
        `<polyline points="${line}" fill="none" stroke="${color}" stroke-width="2"/>`,
        ...points.map(([x, y]) => `<circle cx="${xAt(x)}" cy="${yAt(y)}" r="3" fill="${color}"/>`),
        text(right + 12, y + 4, name, `fill="${color}"`),
      ];
    }),
    "</svg>",
    "",
  ].join("\n");
}

function text(x: number, y: number, words: string, more: string): string {
  const escaped = words.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x="${x}" y="${y}" ${more}>${escaped}</text>`;
}
