/**
 * What the README and the topics behind it tell people.
 *
 * @module
 */

const ROOT = new URL("../../", import.meta.url);
const TOPICS = new URL("src/cli/topics/", ROOT);

/** One page in Markdown. */
export interface Page {
  /** Relative to the repository. */
  path: string;
  text: string;
}

/** The README first, then the topics by name. */
export async function pages(): Promise<Page[]> {
  const entries = await Array.fromAsync(Deno.readDir(TOPICS));
  const topics = entries.map(({ name }) => name).filter((name) => name.endsWith(".md")).sort();
  const paths = ["README.md", ...topics.map((name) => `src/cli/topics/${name}`)];
  return await Promise.all(
    paths.map(async (path) => ({ path, text: await Deno.readTextFile(new URL(path, ROOT)) })),
  );
}

/** One topic's text. */
export async function topic(name: string): Promise<string> {
  return await Deno.readTextFile(new URL(`${name}.md`, TOPICS));
}

/** The blocks of code in a language, as they stand, of all pages. */
export async function recipes(language: string): Promise<string[]> {
  const texts = (await pages()).map(({ text }) => text);
  return texts.flatMap((text) => {
    const blocks = text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"));
    return [...blocks].map(([, block = ""]) => block);
  });
}
