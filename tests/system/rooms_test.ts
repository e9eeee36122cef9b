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

/** The room of a file: its folder below `src`, or the file itself where it stands in none. */
function roomOf(path: string): string {
  const [first, second] = path.split("/");
  return first === "src" && second !== undefined ? second : path;
}

/** The files in which something stands, comments aside. */
function filesWith(pattern: RegExp): string[] {
  const isComment = /^\s*(\/\/|\/?\*)/;
  return sources.filter(({ text }) =>
    text.split("\n").some((line) => !isComment.test(line) && pattern.test(line))
  ).map(({ path }) => path);
}

/** What every room may import: no room of its own. */
const COMMON = [
  "errors.ts",
  "json.ts",
  "secrets.ts",
  "shell.ts",
  "duration.ts",
  "short_name.ts",
  "time.ts",
];

/** What each room may import besides itself and `COMMON`, from the lowest room to the highest. */
const MAY_IMPORT: Record<string, string[]> = {
  wire: [],
  process: [],
  fs: [],
  qcow2: [],
  qmp: ["wire"],
  qga: ["wire"],
  qemu_img: ["process", "fs"],
  vm: ["wire", "fs", "qmp"],
  machine: ["process", "qmp", "vm"],
  repo: ["fs", "qcow2", "vm", "machine"],
  digest: ["fs", "repo"],
  python: ["fs", "qmp", "qemu_img", "repo", "vm"],
  plan: ["fs", "qmp", "repo", "vm", "python", "attach"],
  recovery: ["wire", "process", "fs", "qmp", "repo", "vm", "plan"],
  backup: [
    ...["wire", "process", "fs", "qcow2", "qmp", "qga", "qemu_img", "repo", "vm", "machine"],
    ...["plan", "recovery", "prune", "digest"],
  ],
  verify: ["fs", "qemu_img", "repo", "digest", "python", "restore"],
  restore: ["process", "fs", "digest", "qemu_img", "repo", "python", "machine"],
  overview: ["fs", "repo", "verify"],
  attach: ["wire", "process", "fs", "qmp", "qemu_img", "repo", "restore"],
  prune: ["fs", "qemu_img", "repo", "digest", "restore", "attach"],
  rollback: ["wire", "fs", "qmp", "repo", "vm", "plan", "recovery", "backup", "restore"],
  boot: ["wire", "process", "fs", "qmp", "qga", "qemu_img", "machine", "repo", "restore", "attach"],
  files: ["process", "fs", "qmp", "restore", "attach"],
  cli: [
    ...["wire", "process", "fs", "qmp", "qga", "qemu_img", "repo", "vm", "machine"],
    ...["plan", "recovery", "backup", "restore", "attach", "files", "boot", "overview"],
    ...["verify", "prune", "rollback"],
  ],
  "app.ts": ["cli"],
};

Deno.test("each room of `src` is in the table, and imports what the table allows", () => {
  const rooms = new Set(sources.map(({ path }) => roomOf(path)));
  const listed = [...Object.keys(MAY_IMPORT), ...COMMON, "main.ts", "std.d.ts"];
  assertEquals([...rooms].toSorted(), listed.toSorted());
  const wrong = sources.flatMap(({ path, imports }) => {
    const room = roomOf(path);
    const allowed = [room, ...COMMON, ...MAY_IMPORT[room] ?? []];
    return imports.filter((to) => to.startsWith("src/") && !allowed.includes(roomOf(to)))
      .map((to) => `${path} → ${to}`);
  });
  assertEquals(wrong, [
    // It hands the process's own output to `app.ts`, and knows which rights a socket needs.
    "main.ts → src/app.ts",
    "main.ts → src/cli/output/io.ts",
    "main.ts → src/wire/address.ts",
  ]);
});

Deno.test("what every room may import imports no room", () => {
  const wrong = sources.filter(({ path }) => COMMON.includes(roomOf(path)))
    .flatMap(({ imports }) => imports.filter((to) => !COMMON.includes(roomOf(to))));
  assertEquals(wrong, []);
});

Deno.test("no file imports itself by way of others, for a type neither", () => {
  const importsOf = new Map(sources.map(({ path, imports }) => [path, imports]));
  const circles: string[] = [];
  const done = new Set<string>();
  const walkFrom = (path: string, way: string[]) => {
    if (way.includes(path)) circles.push([...way.slice(way.indexOf(path)), path].join(" → "));
    if (way.includes(path) || done.has(path)) return;
    for (const next of importsOf.get(path) ?? []) walkFrom(next, [...way, path]);
    done.add(path);
  };
  for (const path of importsOf.keys()) walkFrom(path, []);
  assertEquals(circles, []);
});

Deno.test("every import leads to a file", () => {
  const known = new Set(sources.map(({ path }) => path));
  const unknown = sources.flatMap(({ imports }) => imports)
    .filter((path) => path.startsWith("src/") && path.endsWith(".ts") && !known.has(path));
  assertEquals(unknown, []);
});

Deno.test("`Deno.exit()` is called by `main.ts` alone", () => {
  assertEquals(filesWith(/\bDeno\.exit\b/), ["main.ts"]);
});

Deno.test("programs are started in `src/process` alone", () => {
  assertEquals(filesWith(/\bDeno\.Command\b|node:child_process/), ["src/process/spawn.ts"]);
});

Deno.test("what a run puts into QEMU is named in `src/vm/names.ts` alone", () => {
  // Of files, and of the program itself.
  const OTHERS = [
    "src/cli/",
    "src/boot/",
    "src/digest/",
    "src/verify/",
    "src/prune/",
    "src/fs/",
    "src/repo/",
    "src/plan/gather.ts",
  ];
  const found = filesWith(/["`]qmpbackup[-.](?!\$\{tag\}\.nbd)|\^qmpbackup/);
  assertEquals(found.filter((path) => !OTHERS.some((other) => path.startsWith(other))), [
    "src/vm/names.ts",
  ]);
});

/** Deno's calls that ask a file system, which may not answer. */
const FILE_CALL = new RegExp(
  "\\bDeno\\.(open|create|l?stat|read(File|TextFile|Dir|Link)|write(File|TextFile)|realPath|rename|remove|" +
    "mkdir|chmod|chown|makeTemp(File|Dir)|(sym)?link|truncate|utime|copyFile|watchFs)(Sync)?\\(",
);

Deno.test("files are asked for and changed in `src/fs` alone", () => {
  const asking = new RegExp(`${FILE_CALL.source}|"node:fs|\\bDeno\\[`);
  assertEquals(filesWith(asking).filter((path) => roomOf(path) !== "fs"), []);
});

/** The functions that a place in a text is an argument of, the innermost first. */
function* callsAround(text: string, index: number): Generator<string> {
  let open = 0;
  for (let at = index - 1; at >= 0; at--) {
    if (text[at] === ")") open++;
    if (text[at] === "(" && --open < 0) {
      yield /[\w.]*$/.exec(text.slice(0, at))?.[0] ?? "";
      open = 0;
    }
  }
}

Deno.test("no file call can wait for ever: each is given to what waits only so long", () => {
  // What `ask` does is a deadline's, or part of what has one as a whole (`src/fs/open.ts`).
  const WAITS_ONLY_SO_LONG = ["deadline.run", "deadline.ask", "deadline.runLong", "ask"];
  const unbounded = sources.filter(({ path }) => roomOf(path) === "fs").flatMap(({ path, text }) =>
    [...text.matchAll(new RegExp(FILE_CALL, "g"))].filter(({ index }) =>
      !callsAround(text, index).some((name) => WAITS_ONLY_SO_LONG.includes(name))
    ).map(([call]) => `${path}: ${call}`)
  );
  assertEquals(unbounded, [
    // It asks whether a file system answers, and is waited for in the same way.
    "src/fs/deadline.ts: Deno.lstat(",
  ]);
});

Deno.test("no file is opened by way of `Deadline.ask()`: Deno 2.4 opens files where no time-out runs", () => {
  const opening =
    /\bDeno\.(open|create|read(Text)?File|write(Text)?File|makeTemp(File|Dir)|copyFile)\(|\bstatfs\(/g;
  const found = sources.flatMap(({ path, text }) =>
    [...text.matchAll(opening)].filter(({ index }) =>
      [...callsAround(text, index)].includes("deadline.ask")
    ).map(([call]) => `${path}: ${call}`)
  );
  assertEquals(found, []);
});

Deno.test("the test files that tasks name are there", async () => {
  const tasks = await Deno.readTextFile(join(ROOT, "deno.json"));
  const named = [...tasks.matchAll(/\btests\/[\w/]+\.ts\b/g)].map(([path]) => path);
  assert(named.length > 10);
  for (const path of named) assert((await Deno.stat(join(ROOT, path))).isFile);
});
