import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { TOPICS_FILE, topicsJson } from "../../.ci/topics.ts";
import { parse } from "../../src/cli/args/parse.ts";
import { EXIT_CODES } from "../../src/errors.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { mustRun, run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { pages, recipes, topic } from "../support/readme.ts";

const PYTHON = "/usr/bin/python3";

await ensurePrograms({
  "ansible-playbook": "ansible-core",
  [PYTHON]: "python3",
  "/usr/lib/python3/dist-packages/yaml": "python3-yaml",
});

const ROOT = new URL("../../", import.meta.url);

/** The lines that are not of a block of code. */
function prose(text: string): string[] {
  return text.replaceAll(/^ *```.*?^ *```$/gms, "").split("\n");
}

Deno.test("README is read in two screens, and fits a page in width", async () => {
  const [readme] = await pages();
  assert(readme && readme.text.split("\n").length <= 169, `${readme?.text.split("\n").length}`);
  for (const { path, text } of await pages()) {
    assertEquals(prose(text).filter((line) => [...line].length > 100), [], path);
  }
});

Deno.test("README: a page that it links to is there, and each topic is linked to", async () => {
  const linked: string[] = [];
  for (const { path, text } of await pages()) {
    for (const [, link = ""] of text.matchAll(/\]\((?!https?:)([^)]+)\)/g)) {
      const url = new URL(link, new URL(path, ROOT));
      assert((await Deno.stat(url)).isFile, `${path}: ${link}`);
      if (path === "README.md") linked.push(link);
    }
  }
  const paths = (await pages()).map(({ path }) => path).slice(1);
  assertEquals([...new Set(linked)].sort(), paths);
});

Deno.test("README: every command line of ours is one", async () => {
  const texts = await pages();
  const lines = texts.flatMap(({ text }) => [...text.matchAll(/(?:^\$ |`)(qmpbackup [^`\n]*)/gm)]);
  assert(lines.length >= 10);
  for (const [, line = ""] of lines) {
    // Where something is left out of a line, or is any of several, it can't be read.
    if (/…|[A-Z]{4,}/.test(line)) continue;
    const [, ...words] = line.match(/"[^"]*"|\S+/g) ?? [];
    assert(parse(words).command !== null, line);
  }
});

Deno.test("README: each fault names its tests, which are there", async () => {
  const [listed = ""] = (await topic("failures")).split("## What can't be detected");
  const faults = listed.split(/^- (?=\*\*)/m).slice(1);
  assert(faults.length >= 25);
  for (const fault of faults) {
    for (const part of ["You see", "Kept", "Test"]) assertStringIncludes(fault, `\n  - ${part}:`);
    const tests = [...(fault.split("\n  - Test:")[1] ?? "").matchAll(/`([^`]+)`/g)];
    assert(tests.length > 0, fault);
    for (const [, path = ""] of tests) {
      assert((await Deno.stat(new URL(`tests/${path}`, ROOT))).isFile, path);
    }
  }
});

Deno.test("README: its exit codes are those that the help lists", async () => {
  const [readme] = await pages();
  const rows = [...(readme?.text ?? "").matchAll(/^\| (\d+) +\| (.*?) +\|$/gm)];
  const meanings = Object.entries(EXIT_CODES).filter(([code]) => Number(code) < 128);
  assertEquals(rows.map(([, code, meaning]) => [code, meaning?.replaceAll("`", "")]), meanings);
});

/** The sources with each message in one piece, and "…" where something is put in. */
async function messages(): Promise<string> {
  const texts = [];
  for (const path of await Array.fromAsync(filesBelow("src"))) {
    if (path.endsWith(".ts")) texts.push(await Deno.readTextFile(new URL(path, ROOT)));
  }
  return texts.join("\n").replaceAll(/["'`] \+\s*["'`]/g, "").replaceAll(
    /\$\{[^}]*\}|\{\w+\}/g,
    "…",
  );
}

async function* filesBelow(path: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(new URL(path, ROOT))) {
    if (isDirectory) yield* filesBelow(`${path}/${name}`);
    else yield `${path}/${name}`;
  }
}

Deno.test("README: what is said to be seen is what the program says", async () => {
  const said = await messages();
  const seen = (await topic("failures")).matchAll(/\n {2}- You see: (.*?)(?=\n {2}- )/gs);
  const quotes = [...seen].flatMap(([, text = ""]) =>
    [...text.replaceAll(/\s+/g, " ").matchAll(/`([^`]+)`/g)].map(([, quote = ""]) => quote)
      .filter((quote) => / |…/.test(quote) && !quote.includes("--"))
  );
  // Names and numbers stand in between.
  const parts = quotes.flatMap((quote) => quote.split(/…|"[^"]*"/))
    .map((part) => part.trim()).filter((part) => part.length > 6);
  assert(parts.length > 30);
  assertEquals(parts.filter((part) => !said.includes(part)), []);
});

Deno.test("topics.json holds the topics as they are (`deno task topics`)", async () => {
  assertEquals(await Deno.readTextFile(TOPICS_FILE), await topicsJson());
});

interface CronJob {
  kind: string;
  spec: {
    concurrencyPolicy: string;
    jobTemplate: {
      spec: {
        template: {
          spec: {
            hostNetwork: boolean;
            containers: {
              command: string[];
              args: string[];
              volumeMounts: { name: string; mountPath: string }[];
            }[];
            volumes: { name: string; hostPath: { path: string } }[];
          };
        };
      };
    };
  };
}

async function readYaml(text: string): Promise<unknown> {
  const script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
  return JSON.parse(await mustRun(PYTHON, ["-c", script], { stdin: text }));
}

Deno.test("README: Ansible takes the play", async () => {
  await using dir = await tempDir();
  const play = (await recipes("yaml")).find((text) => text.includes("ansible.builtin"));
  await Deno.writeTextFile(dir.join("play.yml"), play ?? "");
  await Deno.writeTextFile(dir.join("hosts"), "[hypervisors]\nhv1\n");
  const args = ["--syntax-check", "-i", dir.join("hosts"), dir.join("play.yml")];
  const env = { HOME: dir.path, LC_ALL: "C.UTF-8" };
  const { code, stdout, stderr } = await run("ansible-playbook", args, { env });
  assertEquals(code, 0, stdout + stderr);
  assertEquals(stderr, "");
});

Deno.test("README: the play writes what the unit reads", async () => {
  const play = (await recipes("yaml")).find((text) => text.includes("ansible.builtin")) ?? "";
  for (const name of ["QMPBACKUP_SOCKET", "QMPBACKUP_TARGET", "QMPBACKUP_OPTIONS"]) {
    assertStringIncludes(play, ` ${name}=`);
  }
  const words = /QMPBACKUP_OPTIONS=(.*)/.exec(play)?.[1]?.replace(/\{\{ item \}\}/g, "vm1") ?? "";
  const start = ["backup", "--level", "auto", "--socket", "s", "--target", "t"];
  assertEquals(parse([...start, ...words.split(" ")]).command, "backup");
});

Deno.test("README: the CronJob runs a command line of ours where QEMU's paths are its own", async () => {
  const text = (await recipes("yaml")).find((text) => text.includes("kind: CronJob")) ?? "";
  const { kind, spec } = await readYaml(text) as CronJob;
  assertEquals([kind, spec.concurrencyPolicy], ["CronJob", "Forbid"]);
  const { hostNetwork, containers, volumes } = spec.jobTemplate.spec.template.spec;
  assertEquals(hostNetwork, true);
  const [container] = containers;
  assert(container);
  const [program, ...words] = [...container.command, ...container.args];
  assertEquals(program, "qmpbackup");
  const { command, values } = parse(words);
  assertEquals(command, "backup");
  const paths = new Map(volumes.map(({ name, hostPath }) => [name, hostPath.path]));
  for (const { name, mountPath } of container.volumeMounts) {
    assertEquals(paths.get(name), mountPath);
  }
  for (const path of [values.socket, values.target]) {
    assert(container.volumeMounts.some(({ mountPath }) => path?.startsWith(`${mountPath}/`)), path);
  }
});

Deno.test("README: its shell scripts can be read by sh", async () => {
  const scripts = await recipes("sh");
  assert(scripts.length >= 3);
  for (const script of scripts) {
    const { code, stderr } = await run("sh", ["-n"], { stdin: script });
    assertEquals([code, stderr], [0, ""], script);
  }
});
