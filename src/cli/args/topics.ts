/**
 * The pages behind the README: `src/cli/topics/*.md`.
 *
 * @module
 */

import texts from "../topics/topics.json" with { type: "json" };

/** Each page in Markdown, by its name; `deno task topics` puts them here. */
export const TOPICS: ReadonlyMap<string, string> = new Map(
  Object.entries(texts).map(([name, lines]) => [name, lines.join("\n") + "\n"]),
);

/** What a page is about: its title. */
export function titleOf(topic: string): string {
  return TOPICS.get(topic)?.split("\n", 1)[0]?.replace(/^# /, "") ?? "";
}
