/**
 * What the README tells people to copy.
 *
 * @module
 */

const README = new URL("../../README.md", import.meta.url);

/** The blocks of code in a language, as they stand. */
export async function recipes(language: string): Promise<string[]> {
  const text = await Deno.readTextFile(README);
  const blocks = text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"));
  return [...blocks].map(([, block = ""]) => block);
}
