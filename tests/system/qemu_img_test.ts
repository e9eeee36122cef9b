import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { fromFileUrl } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import {
  checkImage,
  createQcow2,
  imageFacts,
  qemuImg,
  QemuImgError,
} from "../../src/qemu_img/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { KIB, makeLayer, names } from "./_images.ts";
import { within } from "../support/fake_peer.ts";
import { deadline } from "../support/deadline.ts";

const SOON_MS = 60_000;
const SIZE = 1024 * KIB;

/** A stand-in for `qemu-img`, first on the PATH of a child that runs `qemuImg()`. */
async function withPath(path: string, args: string[]): Promise<string> {
  const [module, deadlines] = ["qemu_img/qemu_img.ts", "fs/deadline.ts"]
    .map((name) => JSON.stringify(new URL(`../../src/${name}`, import.meta.url).href));
  const config = fromFileUrl(new URL("../../deno.json", import.meta.url));
  const code = `
    const { qemuImg } = await import(${module});
    const { Deadline } = await import(${deadlines});
    const words = await qemuImg(new Deadline(60_000), ["/tmp"], ${JSON.stringify(args)})
      .catch((e) => e.name + ": " + e.message);
    await Deno.stdout.write(new TextEncoder().encode(words));`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--config", config, code],
    env: { PATH: path },
  });
  const { stdout } = await within(SOON_MS, child.output());
  return new TextDecoder().decode(stdout);
}

Deno.test("`qemuImg()` says how to install it where it is missing", async () => {
  await using dir = await tempDir();
  assertMatch(
    await withPath(dir.path, ["--version"]),
    /^QemuImgError: qemu-img is not installed.*: install it \(Debian: qemu-utils\)$/,
  );
});

Deno.test("`qemuImg()` says that it may not be run", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("qemu-img"), "#!/bin/sh\n", { mode: 0o644 });
  assertStringIncludes(await withPath(dir.path, ["--version"]), "QemuImgError: ");
});

Deno.test("`qemuImg()` names the exit code of one that fails without a word", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("qemu-img"), "#!/bin/sh\nexit 7\n", { mode: 0o755 });
  assertEquals(
    await withPath(dir.path, ["check", "x"]),
    "QemuImgError: qemu-img check failed: exit code 7",
  );
});

Deno.test("`qemuImg()` keeps the end of an output without end", async () => {
  await using dir = await tempDir();
  const script =
    "#!/bin/sh\n/usr/bin/head -c 8000000 /dev/zero | /usr/bin/tr '\\0' x\necho; echo END\n";
  await Deno.writeTextFile(dir.join("qemu-img"), script, { mode: 0o755 });
  const kept = await withPath(dir.path, ["info"]);
  assertStringIncludes(kept.slice(-5), "END");
  assert(kept.length <= 1 << 20);
});

Deno.test("`qemuImg()` tells what qemu-img says, and its exit code", async () => {
  await using dir = await tempDir();
  const args = ["info", dir.join("none")];
  const error = await assertRejects(() => qemuImg(deadline, [dir.path], args), QemuImgError);
  assertStringIncludes(error.message, "qemu-img info failed: Could not open");
  assertStringIncludes(error.message, dir.join("none"));
  assertEquals(error.status, 1);
});

Deno.test("`qemuImg()` gives its arguments to no shell", async () => {
  await using dir = await tempDir();
  const name = `$(touch ${dir.join("made")}); '"`;
  await assertRejects(() => qemuImg(deadline, [dir.path], ["info", dir.join(name)]), QemuImgError);
  assertEquals(await names(dir.path), []);
});

Deno.test("`qemuImg()` tells how far it is", async () => {
  await using dir = await tempDir();
  await makeLayer(dir.join("a"), SIZE, [[0, SIZE, 1]]);
  const percents: number[] = [];
  await qemuImg(
    deadline,
    [dir.path],
    ["convert", "-p", "-O", "raw", dir.join("a"), dir.join("b")],
    {
      onPercent: (percent) => void percents.push(percent),
    },
  );
  assertEquals(percents.at(-1), 100);
  assertEquals(percents, percents.toSorted((a, b) => a - b));
});

Deno.test("`qemuImg()` ends with the signal's reason", async () => {
  await using dir = await tempDir();
  const stop = new AbortController();
  // Without a server that answers, it would wait for ever.
  using listener = Deno.listen({ transport: "unix", path: dir.join("nbd") });
  const running = qemuImg(
    deadline,
    [dir.path],
    ["info", `nbd+unix:///?socket=${dir.join("nbd")}`],
    {
      signal: stop.signal,
    },
  );
  using _ = await within(SOON_MS, listener.accept());
  stop.abort(new StoppedError("SIGTERM"));
  await within(SOON_MS, assertRejects(() => running, StoppedError));
});

Deno.test("`qemuImg()` starts nothing if it is aborted before", async () => {
  await using dir = await tempDir();
  const signal = AbortSignal.abort(new StoppedError("SIGINT"));
  const args = ["create", "-q", "-f", "qcow2", dir.join("a"), "1M"];
  await assertRejects(() => qemuImg(deadline, [dir.path], args, { signal }), StoppedError);
  assertEquals(await names(dir.path), []);
});

const WEIRD = [
  "with space.qcow2",
  "nbd:host:10809",
  "json:{}",
  "comma,size=1G",
  "-f",
  `quote'"\`$(id)`,
  "line\nbreak\t%s%n",
  "ünï😀",
  "[*?]&;|<>\\",
  "x".repeat(255),
];
for (const name of WEIRD) {
  Deno.test(`\`createQcow2()\` makes a file called ${JSON.stringify(name.slice(0, 30))}`, async () => {
    await using dir = await tempDir();
    await createQcow2(deadline, dir.join(name), { virtualSizeBytes: SIZE });
    assertEquals(await names(dir.path), [name]);
    const facts = await imageFacts(deadline, dir.join(name));
    assertEquals([facts.format, facts.virtualSizeBytes, facts.backing], ["qcow2", SIZE, null]);
    await checkImage(deadline, dir.join(name));
  });

  Deno.test(`\`createQcow2()\` links to one called ${JSON.stringify(name.slice(0, 30))}`, async () => {
    await using dir = await tempDir();
    await createQcow2(deadline, dir.join("inc"), { virtualSizeBytes: SIZE, backing: name });
    assertEquals((await imageFacts(deadline, dir.join("inc"))).backing, name);
  });
}

Deno.test("`createQcow2()` makes the image as it is told, always of version 3", async () => {
  await using dir = await tempDir();
  const path = dir.join("a");
  await createQcow2(deadline, path, {
    virtualSizeBytes: 513 * 512,
    clusterSizeBytes: 4096,
    lazyRefcounts: true,
  });
  const info = JSON.parse(await qemuImg(deadline, [dir.path], ["info", "--output=json", path]));
  assertEquals(info["virtual-size"], 513 * 512);
  assertEquals(info["cluster-size"], 4096);
  assertEquals(info["format-specific"].data.compat, "1.1");
  assertEquals(info["format-specific"].data["lazy-refcounts"], true);
});

Deno.test("`createQcow2()` fails below a folder that is not there", async () => {
  await using dir = await tempDir();
  const options = { virtualSizeBytes: SIZE };
  await assertRejects(
    () => createQcow2(deadline, dir.join("none", "a"), options),
    QemuImgError,
    "none/a",
  );
});

Deno.test("`imageFacts()` takes a raw image for none, whatever stands in it", async () => {
  await using dir = await tempDir();
  await Deno.writeFile(dir.join("raw"), new Uint8Array(SIZE));
  await assertRejects(() => imageFacts(deadline, dir.join("raw")), QemuImgError);
});

Deno.test("`imageFacts()` waits for no pipe, and reads no folder", async () => {
  await using dir = await tempDir();
  await new Deno.Command("mkfifo", { args: [dir.join("pipe")] }).output();
  for (const path of [dir.join("pipe"), dir.path]) {
    await assertRejects(
      () => imageFacts(deadline, path),
      QemuImgError,
      `"${path}" is not a regular file`,
    );
  }
});

Deno.test("`imageFacts()` names an external data file", async () => {
  await using dir = await tempDir();
  const option = `data_file=${dir.join("data")}`;
  await qemuImg(deadline, [dir.path], [
    "create",
    "-q",
    "-f",
    "qcow2",
    "-o",
    option,
    dir.join("a"),
    "1M",
  ]);
  assertEquals((await imageFacts(deadline, dir.join("a"))).dataFile, dir.join("data"));
});

/** Where the entry of the first cluster stands: qcow2's specification, "Cluster mapping". */
async function firstEntryAt(path: string): Promise<number> {
  const bytes = await Deno.readFile(path);
  const view = new DataView(bytes.buffer);
  const offsetAt = (at: number) => Number(view.getBigUint64(at) & 0x00ff_ffff_ffff_fe00n);
  return offsetAt(offsetAt(40));
}

async function overwrite(path: string, at: number, bytes: number[]) {
  using file = await Deno.open(path, { write: true });
  await file.seek(at, Deno.SeekMode.Start);
  await file.write(new Uint8Array(bytes));
}

Deno.test("`checkImage()` accepts leaked clusters", async () => {
  await using dir = await tempDir();
  const path = dir.join("a");
  await makeLayer(path, SIZE, [[0, SIZE, 1]]);
  await overwrite(path, await firstEntryAt(path), [0, 0, 0, 0, 0, 0, 0, 0]);
  const leaks = await assertRejects(
    () => qemuImg(deadline, [dir.path], ["check", "-q", path]),
    QemuImgError,
  );
  assertEquals(leaks.status, 3);
  await checkImage(deadline, path);
});

Deno.test("`checkImage()` refuses an image whose tables are damaged", async () => {
  await using dir = await tempDir();
  const path = dir.join("a");
  await makeLayer(path, SIZE, [[0, SIZE, 1]]);
  // The first cluster is said to lie where the table of reference counts is.
  await overwrite(path, await firstEntryAt(path), [0x80, 0, 0, 0, 0, 1, 0, 0]);
  const error = await assertRejects(() => checkImage(deadline, path), QemuImgError);
  assertStringIncludes(error.message, "qemu-img check failed: ");
  assertEquals(error.status, 2);
});

Deno.test("`checkImage()` refuses an image that was cut short in its header", async () => {
  await using dir = await tempDir();
  await makeLayer(dir.join("a"), SIZE, []);
  await Deno.truncate(dir.join("a"), 50);
  await assertRejects(() => checkImage(deadline, dir.join("a")), QemuImgError);
});

Deno.test("`checkImage()` refuses an image whose data was cut off", async () => {
  await using dir = await tempDir();
  await makeLayer(dir.join("a"), SIZE, [[0, SIZE, 1]]);
  await Deno.truncate(dir.join("a"), 10 * 64 * KIB);
  await assertRejects(() => checkImage(deadline, dir.join("a")), QemuImgError);
});
