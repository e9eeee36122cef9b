import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { DENO_FROM_NPM, fetchDenort } from "../../.ci/denort.ts";
import { BINARY, compileBinary, compileTo } from "../support/program.ts";
import { tempDir } from "../support/temp_dir.ts";
import { zipOf } from "../support/zip.ts";
import { names } from "./_images.ts";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

async function start(
  [program, ...args]: readonly [string, ...string[]],
  options: { env?: Record<string, string>; clearEnv?: boolean } = {},
): Promise<Output> {
  const command = new Deno.Command(program, { args, cwd: ROOT, stdin: "null", ...options });
  const { code, stdout, stderr } = await command.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

/** What stands in the binary about how it is to run. */
async function bakedIn(): Promise<Record<string, unknown>> {
  const text = new TextDecoder("latin1").decode(await Deno.readFile(BINARY));
  const [json] = /\{"argv":\[\].*?"vfs_case_sensitivity":"\w"\}/.exec(text) ?? [];
  return JSON.parse(json ?? "null");
}

Deno.test("the binary has the rights it needs baked in, and nothing from npm", async () => {
  await compileBinary();
  const { permissions, node_modules, env_vars_from_env_file } = await bakedIn();
  assertEquals(permissions, {
    allow_all: false,
    allow_read: [],
    allow_write: [],
    allow_net: [],
    allow_run: [
      "qemu-img",
      "qemu-storage-daemon",
      "debugfs",
      "swtpm",
      "/usr/sbin/debugfs",
      "7z",
      "qemu-system-x86_64",
      "qemu-system-aarch64",
      "/usr/libexec/qemu-kvm",
      "logger",
      "timeout",
      "/proc/self/exe",
    ],
    allow_sys: ["hostname", "statfs"],
    allow_env: ["CREDENTIALS_DIRECTORY"],
    allow_ffi: null,
    // Deno's own list, which can't be emptied; all of it is denied.
    allow_import: [
      ...["jsr.io:443", "deno.land:443", "esm.sh:443", "cdn.jsdelivr.net:443"],
      ...["raw.githubusercontent.com:443", "gist.githubusercontent.com:443"],
    ],
    deny_import: [],
    ...{ deny_read: null, deny_write: null, deny_net: null, deny_run: null },
    ...{ deny_sys: null, deny_env: null, deny_ffi: null },
    prompt: false,
  });
  assertEquals(node_modules, null);
  assertEquals(Object.keys(env_vars_from_env_file as object), ["PATH"]);
});

/** The repository at another place, with what was fetched for builds. */
async function copyOfSources(copy: string): Promise<string> {
  await Deno.mkdir(copy, { recursive: true });
  for (const name of [".ci", "src", "main.ts", "deno.json", "deno.lock"]) {
    assertEquals((await start(["cp", "-r", join(ROOT, name), copy])).code, 0);
  }
  await Deno.symlink(join(ROOT, ".build"), join(copy, ".build"));
  return copy;
}

Deno.test("the binary is the same, byte for byte, when it is made again elsewhere", async () => {
  await compileBinary();
  await using dir = await tempDir();
  const copy = await copyOfSources(dir.join("else/where"));
  await compileTo(dir.path, copy, { DENO_DIR: dir.join("cache") });
  const { code, stdout, stderr } = await start(["cmp", BINARY, dir.join("qmpbackup")]);
  assertEquals(code, 0, stdout + stderr);
});

Deno.test("the binary starts without any environment, and leaves no cache behind", async () => {
  await compileBinary();
  await using dir = await tempDir();
  assertMatch((await start([BINARY, "--version"], { clearEnv: true })).stdout, /^qmpbackup /);
  const env = { HOME: dir.path, TMPDIR: dir.path, DENO_DIR: dir.path, XDG_CACHE_HOME: dir.path };
  for (const args of [["--version"], ["info", "--show", "backups", "--dir", dir.path]]) {
    await start([BINARY, ...args], { clearEnv: true, env });
    await start([BINARY, ...args], { clearEnv: true, env });
  }
  assertEquals(await names(dir.path), []);
});

/** Deno 2.4.2 as it is on a machine that can't reach the server, and has fetched nothing before. */
async function denoWithoutServer(folder: string): Promise<string> {
  const found = await start([...DENO_FROM_NPM, "eval", "console.log(Deno.execPath())"]);
  assertEquals(found.code, 0, found.stderr);
  const path = join(folder, "deno");
  const script = `#!/bin/sh
DENO_DIR=${folder}/cache HTTPS_PROXY=http://127.0.0.1:9 exec ${found.stdout.trim()} "$@"\n`;
  await Deno.writeTextFile(path, script, { mode: 0o755 });
  return path;
}

Deno.test("`compile` takes a runtime out of an npm package only where it is asked to", async () => {
  await using dir = await tempDir();
  const copy = await copyOfSources(dir.join("copy"));
  const env = { QMPBACKUP_COMPILE_DENO: await denoWithoutServer(dir.path), QMPBACKUP_DENORT: "" };
  const { code, stdout, stderr } = await start(
    [Deno.execPath(), "run", "-A", join(copy, ".ci/compile.ts")],
    { env },
  );
  assertEquals([code, stdout], [1, ""]);
  assertStringIncludes(
    stderr,
    "set QMPBACKUP_DENORT=npm to cut the runtime of Deno 2.4.2 out of an",
  );
  assertEquals((await names(copy)).includes("qmpbackup"), false);
});

Deno.test("`compile --all` takes each machine's runtime from a mirror's folder", async () => {
  await using dir = await tempDir();
  const folder = dir.join("release/v2.4.2");
  await Deno.mkdir(folder, { recursive: true });
  const denort = await Deno.readFile(await fetchDenort(join(ROOT, ".build")));
  const put = (target: string, data: Uint8Array) =>
    Deno.writeFile(join(folder, `denort-${target}.zip`), zipOf("denort", data));
  await put("x86_64-unknown-linux-gnu", denort);

  const found = await start([...DENO_FROM_NPM, "eval", "console.log(Deno.execPath())"]);
  assertEquals(found.code, 0, found.stderr);
  const env = { QMPBACKUP_COMPILE_DENO: found.stdout.trim(), QMPBACKUP_DENORT: dir.path };
  const compile = [Deno.execPath(), "run", "-A", ".ci/compile.ts"] as const;
  const all = [...compile, "--all", `--to=${dir.path}`] as const;

  // Where Deno's server can be reached, it is not to be.
  const missing = await start(all, { env: { ...env, HTTPS_PROXY: "http://127.0.0.1:9" } });
  assertEquals(missing.code, 1);
  assertStringIncludes(missing.stderr, "found no denort for aarch64-unknown-linux-gnu");

  await put("aarch64-unknown-linux-gnu", denort);
  const wrong = await start(all, { env });
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stderr, "The denort is not for aarch64-unknown-linux-gnu");

  // No denort for aarch64 is to be had everywhere: one for x86_64 that says it is one stands in. So
  // it is seen that it is taken and filled, not that it runs.
  const standIn = denort.slice();
  standIn[18] = 183;
  await put("aarch64-unknown-linux-gnu", standIn);
  const { code, stdout, stderr } = await start(all, { env });
  assertEquals(code, 0, stderr);
  assertEquals(stdout.match(/SHA-256 [0-9a-f]{64}$/gm)?.length, 2);
  const [own, other] = [dir.join("qmpbackup-x86_64"), dir.join("qmpbackup-aarch64")];
  assertMatch((await start([own, "--version"], { clearEnv: true })).stdout, /^qmpbackup /);
  const [a, b] = [await Deno.readFile(own), await Deno.readFile(other)];
  assertEquals(b[18], 183);
  // The same program in both.
  b[18] = 62;
  assert(a.length === b.length && a.every((byte, i) => byte === b[i]));
});
