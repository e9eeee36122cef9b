import { assert, assertEquals } from "@std/assert";
import { dirname, fromFileUrl, join, relative } from "@std/path";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

interface Source {
  /** Relative to the repository: "src/qmp/client.ts". */
  path: string;
  text: string;
  /** What it imports of ours, relative to the repository. */
  imports: string[];
}

async function readSource(path: string): Promise<Source> {
  const text = await Deno.readTextFile(join(ROOT, path));
  const names = [...text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*"(\.[^"]+)"/g)]
    .map((match) => match[1] as string);
  return { path, text, imports: names.map((name) => join(dirname(path), name)) };
}

async function* walk(folder: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = join(folder, name);
    if (isDirectory) yield* walk(path);
    else if (name.endsWith(".ts")) yield relative(ROOT, path);
  }
}

const paths = (await Array.fromAsync(walk(join(ROOT, "src")))).sort();
const sources = await Promise.all([...paths, "main.ts"].map(readSource));

const BOUNDED = "src/catalog/bounded.ts";

/** The room of a file: its folder below `src`, or the file itself where it stands in none. */
function roomOf(path: string): string {
  // Every room looks at files, and none may wait for them for ever.
  if (path === BOUNDED) return "bounded";
  const [first, second] = path.split("/");
  return first === "src" && second !== undefined ? second : path;
}

/** Those that break a rule, named as "who → whom". */
function crossings(isWrong: (from: string, to: string) => boolean): string[] {
  return sources.flatMap(({ path, imports }) =>
    imports.filter((to) => isWrong(roomOf(path), roomOf(to))).map((to) => `${path} → ${to}`)
  );
}

/** The files in which something stands, comments aside. */
function filesWith(pattern: RegExp): string[] {
  const isComment = /^\s*(\/\/|\/?\*)/;
  return sources.filter(({ text }) =>
    text.split("\n").some((line) => !isComment.test(line) && pattern.test(line))
  ).map(({ path }) => path);
}

Deno.test("`src` has the rooms that these rules speak of", () => {
  const rooms = new Set(sources.map(({ path }) => roomOf(path)));
  for (const room of ["wire", "qmp", "guest", "image", "catalog", "cli", "errors.ts", "app.ts"]) {
    assert(rooms.has(room), room);
  }
  const known = new Set(sources.map(({ path }) => path));
  const unknown = sources.flatMap(({ imports }) => imports)
    .filter((path) => path.startsWith("src/") && path.endsWith(".ts") && !known.has(path));
  assertEquals(unknown, []);
});

/** What all rooms know. */
const roots = ["errors.ts", "json.ts", "secrets.ts", "shell.ts"];

Deno.test("`wire`, `qmp`, `guest`, `image` and `catalog` know none of each other", () => {
  const low = ["wire", "qmp", "guest", "image", "catalog"];
  const allowed = ["qmp → wire", "guest → wire"];
  const isWrong = (from: string, to: string) =>
    low.includes(from) && to !== from && !roots.includes(to) && to !== "bounded" &&
    !allowed.includes(`${from} → ${to}`);
  assertEquals(crossings(isWrong), []);
});

Deno.test("`cli` is known to `app.ts` and itself alone", () => {
  // `main.ts` hands the process's own output to `app.ts`.
  const mayKnow = ["cli", "app.ts", "main.ts"];
  assertEquals(crossings((from, to) => to === "cli" && !mayKnow.includes(from)), []);
  const main = sources.find(({ path }) => path === "main.ts");
  assertEquals(main?.imports.filter((path) => roomOf(path) === "cli"), ["src/cli/io.ts"]);
});

Deno.test("what all rooms know imports nothing else of `src`", () => {
  assertEquals(crossings((from, to) => roots.includes(from) && !roots.includes(to)), []);
});

Deno.test("`Deno.exit()` is called by `main.ts` alone", () => {
  assertEquals(filesWith(/\bDeno\.exit\b/), ["main.ts"]);
});

Deno.test("`Deno.Command` is used in `src/image`, for syslog, hooks and the guard", () => {
  const users = filesWith(/\bDeno\.Command\b|node:child_process/);
  assert(users.length > 0);
  assertEquals(users.filter((path) => roomOf(path) !== "image"), [
    "src/backup/guard.ts",
    "src/cli/hooks.ts",
    "src/cli/syslog.ts",
  ]);
});

/** Deno's calls that ask a file system, which may not answer. */
const FILE_CALL = new RegExp(
  "\\bDeno\\.(open|create|readFile|readTextFile|writeFile|writeTextFile|readDir|stat|lstat|realPath|rename|" +
    "remove|mkdir|chmod|chown|makeTempFile|makeTempDir|symlink|link|readLink|truncate|utime|copyFile)(Sync)?\\(",
  "g",
);

Deno.test("no file call can wait for ever: each stands in a `bounded()`, or in what one is given", () => {
  // What they do is bounded by those who call them, in the same file.
  const WITHIN = [
    "src/catalog/durable.ts: async function sync(",
    "src/backup/facts.ts: async function tryToWrite(",
    "src/catalog/fingerprint.ts: async function look(",
    "src/catalog/fingerprint.ts: async function openSame(",
    "src/catalog/fingerprint.ts: export async function sealImage(",
  ];
  const unbounded = sources.filter(({ path }) => path !== BOUNDED).flatMap(({ path, text }) =>
    [...text.matchAll(FILE_CALL)].filter(({ index }) => {
      const before = text.slice(Math.max(0, index - 160), index);
      const isGiven = /\bbounded(Work|Run)?\((?:[^;{}]|\{[^{}]*\})*\(\) =>\s*(Array\.fromAsync\()?$/
        .test(before);
      const isWithin = WITHIN.some((one) => {
        const [file, head = ""] = one.split(": ");
        return file === path && text.slice(0, index).split("\n}\n").at(-1)?.includes(head);
      });
      return !isGiven && !isWithin;
    }).map(([call]) => `${path}: ${call}`)
  );
  assertEquals(unbounded, []);
});
