import { assertEquals } from "@std/assert";
import { fromFileUrl, join } from "@std/path";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

/** What people read: folders, and single files. */
const PLAIN = ["README.md", "src"];

/** What has to be read twice, by what to write instead. */
const BANNED: [pattern: RegExp, rather: string][] = [
  [/(?<!\bthere )\b(is|are|was|were) no\b(?! (longer|limit))/gi, '"is not a X", "has no X"'],
  [/\banew\b/gi, '"again"'],
  [/\blest\b/gi, '"so that … not"'],
  [/\bwhoever\b/gi, '"the caller", "who"'],
  [/\b(stands?|standing|stood) still\b/gi, '"is stopped", "hangs"'],
  [/\bcounts? for nothing\b/gi, '"is ignored"'],
  [/\b(bears?|bearing)\b/gi, '"has"'],
  [/\b(put|puts|putting) (\w+ )?right\b/gi, '"clean up", "repair"'],
  // "QEMU closed the connection: has the VM ended"
  [
    /[:;] (is|are|does|do|did|has|have|was|were|can|could) (it|its|he|they|the|a|an|another|somebody|QEMU)\b[^?"'`\n]*(?=["'`])/g,
    '"Check whether …", or a question mark',
  ],
];

/** The words that people read: in Markdown what is quoted from elsewhere is not ours. */
function prose(path: string, text: string): string {
  return path.endsWith(".md") ? text.replaceAll(/^ *```.*?^ *```$|`[^`]*`/gms, "`…`") : text;
}

/** What is banned in a text, each with what to write instead. */
function found(path: string, text: string): string[] {
  return BANNED.flatMap(([pattern, rather]) =>
    [...prose(path, text).matchAll(pattern)].map(([words]) => `${path}: "${words}": ${rather}`)
  );
}

async function* filesBelow(path: string): AsyncGenerator<string> {
  if ((await Deno.stat(join(ROOT, path))).isFile) {
    // The topics are looked at as Markdown.
    if (/\.(ts|md)$/.test(path)) yield path;
    return;
  }
  for await (const { name } of Deno.readDir(join(ROOT, path))) yield* filesBelow(`${path}/${name}`);
}

Deno.test("what people read holds no words that have to be read twice", async () => {
  const paths = (await Promise.all(PLAIN.map((path) => Array.fromAsync(filesBelow(path))))).flat();
  const hits = await Promise.all(
    paths.map(async (path) => found(path, await Deno.readTextFile(join(ROOT, path)))),
  );
  assertEquals(hits.flat().sort(), []);
});

const SENTENCES: [text: string, isPlain: boolean][] = [
  ['`The record "${path}" is no JSON`', false],
  ["// What is no link is left", false],
  ["There is no room", true],
  ["the bitmap is no longer there; 0 is no limit", true],
  ["throw new Failure(`QEMU closed the connection: has the VM ended`)", false],
  ['`Unknown flag: did you mean "--level"?`', true],
  ["reads it anew", false],
  ["Whoever waits for it", false],
  ["put right what a run that died left", false],
  ["a record bears its name", false],
  ["const thawAnew = putRight", true],
];
for (const [text, isPlain] of SENTENCES) {
  Deno.test(`the words of ${JSON.stringify(text)} are ${isPlain ? "plain" : "not plain"}`, () => {
    assertEquals(found("x.ts", text).length === 0, isPlain);
  });
}
