/**
 * Puts the figures of a run into the topic `performance`.
 *
 * @module
 */

import { fromFileUrl } from "@std/path";
import { type Plot, svgOf } from "./plot.ts";

const TOPIC = fromFileUrl(new URL("../../src/cli/topics/performance.md", import.meta.url));

/** The text without its figures from QEMU of this release, and with these instead. Pure. */
export function withFigures(topic: string, machine: string, table: string): string {
  const release = releaseOf(machine);
  const title = `### QEMU ${release}`;
  const [before = "", ...rest] = topic.split("\n## Figures\n");
  const [, ...sections] = rest.join("").split(/^(?=### QEMU )/m);
  const others = sections.map((text) => text.trim()).filter((text) => !text.startsWith(title));
  const block = `\`\`\`text\n${machine}\n\n${table}\n\`\`\``;
  const all = [...others, `${title}\n\n${block}`].toSorted((a, b) =>
    Number.parseFloat(a.slice(9)) - Number.parseFloat(b.slice(9))
  );
  return `${before.trimEnd()}\n\n## Figures\n\n${all.join("\n\n")}\n`;
}

function releaseOf(machine: string): string {
  const release = /QEMU (\d+\.\d+)/.exec(machine)?.[1];
  if (release === undefined) throw new Error(`QEMU's release is missing in "${machine}"`);
  return release;
}

/** Writes the figures, and the plots beside us: the topic shows them. */
export async function writeTopic(machine: string, table: string, plots: Plot[]): Promise<void> {
  await Deno.writeTextFile(TOPIC, withFigures(await Deno.readTextFile(TOPIC), machine, table));
  for (const plot of plots) {
    const path = fromFileUrl(new URL(`${plot.name}.svg`, import.meta.url));
    await Deno.writeTextFile(path, svgOf(plot));
  }
}
