/**
 * Puts the pages of `src/cli/topics/` into `src/cli/topics/topics.json`, which the program imports:
 * `deno task topics`. (Deno 2.4 can't import a text, and JSON is bundled by every Deno.)
 */

import { fromFileUrl, join } from "@std/path";

const FOLDER = fromFileUrl(new URL("../src/cli/topics/", import.meta.url));

/** The file that {@linkcode topicsJson} is the text of. */
export const TOPICS_FILE = join(FOLDER, "topics.json");

/** The pages by name, each as its lines, as `deno fmt` would write them. */
export async function topicsJson(): Promise<string> {
  const entries = await Array.fromAsync(Deno.readDir(FOLDER));
  const names = entries.map(({ name }) => name).filter((name) => name.endsWith(".md")).sort();
  const pages = await Promise.all(names.map(async (name) => {
    const text = await Deno.readTextFile(join(FOLDER, name));
    return [name.replace(/\.md$/, ""), text.trimEnd().split("\n")] as const;
  }));
  return JSON.stringify(Object.fromEntries(pages), null, 2) + "\n";
}

if (import.meta.main) await Deno.writeTextFile(TOPICS_FILE, await topicsJson());
