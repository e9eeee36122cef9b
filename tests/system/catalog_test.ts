import {
  assert,
  assertEquals,
  assertExists,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { fromFileUrl } from "@std/path";
import { exists, removeFile, renameDurably, syncPath, writeDurably } from "../../src/fs/durable.ts";
import { parseHolder, takeDeadLock } from "../../src/fs/flock.ts";
import { LOCK_FILE, RUNS_FOLDER } from "../../src/repo/layout.ts";
import { formatRecord, RECORD_HEAD, RecordError, type RunRecord } from "../../src/repo/record.ts";
import {
  createFolder,
  createTarget,
  readTarget,
  refuseForeign,
  writeChainId,
  writeRun,
} from "../../src/repo/repository.ts";
import { Failure, UsageError } from "../../src/errors.ts";
import { tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { within } from "../support/fake_peer.ts";
import { deadline } from "../support/deadline.ts";

const HOLD_LOCK = fromFileUrl(new URL("./_hold_lock.ts", import.meta.url));
const CHILD_MS = 60_000;

interface LockChild extends AsyncDisposable {
  pid: number;
  /** What it said first. */
  words: string;
  end(how: "let go" | "kill -9"): Promise<void>;
}

/** Runs `takeLock()` in a process of its own. */
async function lockChild(path: string, run: string): Promise<LockChild> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", HOLD_LOCK, path, run],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let words = "";
  while (!words.includes("\n")) {
    const { done, value } = await within(CHILD_MS, reader.read());
    if (done) break;
    words += value;
  }
  let isOver = false;
  const end = async (how: "let go" | "kill -9") => {
    if (isOver) return;
    isOver = true;
    if (how === "kill -9") child.kill("SIGKILL");
    await child.stdin.close().catch(() => {});
    await within(CHILD_MS, child.status);
    await reader.cancel();
  };
  return {
    pid: child.pid,
    words: words.trim(),
    end,
    [Symbol.asyncDispose]: () => end("let go"),
  };
}

Deno.test("`takeLock()` refuses a second process, with who holds the lock", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  await using first = await lockChild(path, "run-1");
  assertEquals(first.words, "held");
  await using second = await lockChild(path, "run-2");
  assertStringIncludes(second.words, "LockedError: Another run is at work on this target");
  assertStringIncludes(second.words, `run run-1 (pid ${first.pid} on here, since`);
  // The one that was refused has not written its name there.
  assertEquals(parseHolder(await Deno.readTextFile(path))?.run, "run-1");
});

Deno.test("`takeLock()` takes the lock of a process that was killed", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  await using first = await lockChild(path, "a run with a long name");
  await first.end("kill -9");
  await using second = await lockChild(path, "run-2");
  assertEquals(second.words, "held");
  assertEquals(parseHolder(await Deno.readTextFile(path))?.pid, second.pid);
});

Deno.test("`takeLock()` takes a lock that was let go, and leaves its file", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  for (const run of ["run-1", "run-2"]) {
    await using child = await lockChild(path, run);
    assertEquals(child.words, "held");
  }
  assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
});

Deno.test("`takeLock()` refuses without a name if what stands in the lock is none", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  await using _first = await lockChild(path, "run-1");
  await Deno.writeTextFile(path, "\x1b[2J not JSON");
  await using second = await lockChild(path, "run-2");
  assertStringIncludes(second.words, "LockedError");
  assertStringIncludes(second.words, "its name is not known");
});

Deno.test("`takeDeadLock()` takes what nobody holds, and can't tell without a file", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  await assertRejects(() => takeDeadLock(deadline, path), Deno.errors.NotFound);
  await Deno.writeTextFile(path, "left over");
  {
    using lock = await takeDeadLock(deadline, path);
    assertExists(lock);
  }
  assertEquals(await Deno.readTextFile(path), "left over");
});

Deno.test({
  name: "`takeDeadLock()` takes nothing while another process holds the lock",
  // Deno 2.4 can only wait for a lock: what waits ends with the holder, not with the answer.
  sanitizeOps: "tryLock" in Deno.FsFile.prototype,
  sanitizeResources: "tryLock" in Deno.FsFile.prototype,
  async fn() {
    await using dir = await tempDir();
    const path = dir.join("lock");
    await using holder = await lockChild(path, "run-1");
    assertEquals(await within(CHILD_MS, takeDeadLock(deadline, path)), null);
    await holder.end("kill -9");
  },
});

Deno.test("`writeDurably()` replaces a file whole, for its owner alone", async () => {
  await using dir = await tempDir();
  const path = dir.join("a.json");
  await writeDurably(deadline, path, "a longer text");
  await writeDurably(deadline, path, "short");
  assertEquals(await Deno.readTextFile(path), "short");
  assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
  assertEquals(await names(dir.path), ["a.json"]);
});

Deno.test("`writeDurably()` leaves the old file and nothing else if it fails", async () => {
  await using dir = await tempDir();
  // A folder can't be replaced by a file.
  await Deno.mkdir(dir.join("a.json", "inside"), { recursive: true });
  await assertRejects(() => writeDurably(deadline, dir.join("a.json"), "text"), Error);
  assertEquals(await names(dir.path), ["a.json"]);
  assertEquals(await names(dir.join("a.json")), ["inside"]);
});

Deno.test("`renameDurably()` gives a file its name; a missing one fails", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("a"), "text");
  await renameDurably(deadline, dir.join("a"), dir.join("b"));
  assertEquals(await names(dir.path), ["b"]);
  await assertRejects(
    () => renameDurably(deadline, dir.join("a"), dir.join("b")),
    Deno.errors.NotFound,
  );
  assertEquals(await Deno.readTextFile(dir.join("b")), "text");
});

Deno.test("`syncPath()` flushes files and folders", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("a"), "text");
  await syncPath(deadline, dir.join("a"));
  await syncPath(deadline, dir.path);
  await assertRejects(() => syncPath(deadline, dir.join("none")), Deno.errors.NotFound);
});

Deno.test("`exists()` sees files, folders and dangling links", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("file"), "");
  await Deno.symlink("nowhere", dir.join("link"));
  for (const name of ["file", "link", "."]) assert(await exists(deadline, dir.join(name)), name);
  assertEquals(await exists(deadline, dir.join("none")), false);
});

Deno.test("`exists()` is false below a file", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("file"), "");
  assertEquals(await exists(deadline, dir.join("file", "below")), false);
});

Deno.test("`removeFile()` does not mind if another program removes the file at the same time", async () => {
  await using dir = await tempDir();
  for (let i = 0; i < 50; i++) {
    const path = dir.join(`${i}`);
    await Deno.writeTextFile(path, "");
    // Both look before either removes.
    await Promise.all([removeFile(deadline, path), removeFile(deadline, path)]);
  }
  assertEquals(await names(dir.path), []);
});

Deno.test("`removeFile()` removes a file, a dangling link, and nothing where there is nothing", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("file"), "");
  await Deno.symlink("nowhere", dir.join("link"));
  for (const name of ["file", "link", "none"]) await removeFile(deadline, dir.join(name));
  assertEquals(await names(dir.path), []);
});

Deno.test("`readTarget()` takes a directory that is not there for an empty one", async () => {
  await using dir = await tempDir();
  const target = await readTarget(deadline, dir.join("none"));
  assertEquals(target, {
    path: dir.join("none"),
    chainId: null,
    hasRecords: false,
    runs: [],
    halfAdopted: [],
  });
  await refuseForeign(deadline, target);
  assertEquals(await names(dir.path), []);
});

Deno.test("`readTarget()` reads back what was written, in the order of the sequence", async () => {
  await using dir = await tempDir();
  const path = dir.join("new", "target");
  assertEquals(await createTarget(deadline, path), `${path}/${LOCK_FILE}`);
  for (const sequence of [2, 10, 1]) {
    await writeRun(deadline, path, runRecord(`run-${sequence}`, sequence));
  }
  await writeChainId(deadline, path, "chain-1");
  await createFolder(deadline, path, "disk0");
  const target = await readTarget(deadline, path);
  assertEquals(target.chainId, "chain-1");
  assertEquals(target.hasRecords, true);
  assertEquals(target.runs.map(({ sequence }) => sequence), [1, 2, 10]);
  assertEquals(target.runs[0], runRecord("run-1", 1));
  await refuseForeign(deadline, target);
  // The reference reads this file as it is.
  assertEquals(await Deno.readTextFile(`${path}/uuid`), "chain-1");
  for (const folder of [path, `${path}/disk0`, `${path}/${RUNS_FOLDER}`]) {
    assertEquals((await Deno.stat(folder)).mode! & 0o777, 0o700);
  }
});

Deno.test("`createTarget()` and `createFolder()` leave what is there", async () => {
  await using dir = await tempDir();
  for (let time = 0; time < 2; time++) {
    await createTarget(deadline, dir.path);
    await createFolder(deadline, dir.path, "disk0");
    await Deno.writeTextFile(dir.join("disk0", "image"), "text");
  }
  assertEquals(await names(dir.join("disk0")), ["image"]);
});

Deno.test("`readTarget()` and `createTarget()` refuse a file", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("file"), "");
  for (const path of [dir.join("file"), dir.join("file", "below")]) {
    for (const use of [readTarget, createTarget]) {
      await assertRejects(() => use(deadline, path), UsageError, `"${path}" is not a directory`);
    }
  }
});

Deno.test("`refuseForeign()` refuses a directory that holds something else", async () => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("photos"));
  const target = await readTarget(deadline, dir.path);
  await assertRejects(() => refuseForeign(deadline, target), UsageError, 'holds "photos"');
});

Deno.test("`refuseForeign()` lets pass what is no backup and in nobody's way", async () => {
  await using dir = await tempDir();
  for (const name of [".snapshot", "lost+found", "cron.log"]) await Deno.mkdir(dir.join(name));
  await refuseForeign(deadline, await readTarget(deadline, dir.path));
});

Deno.test("`refuseForeign()` lets pass the reference's directory", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("uuid"), "d2a5cb9e-7a5b-4b6c-8f4c-0c0a4b6a5a4c");
  await Deno.mkdir(dir.join("disk0"));
  const target = await readTarget(deadline, dir.path);
  assertEquals(target.chainId, "d2a5cb9e-7a5b-4b6c-8f4c-0c0a4b6a5a4c");
  await refuseForeign(deadline, target);
});

const BAD_IDS: Record<string, string> = {
  "nothing": "",
  "a path": "../../etc/passwd",
  "two lines": "a\nb",
  "too much": "a".repeat(129),
  "an escape sequence": "\x1b[2J",
};
for (const [what, text] of Object.entries(BAD_IDS)) {
  Deno.test(`\`readTarget()\` refuses a chain id of ${what}`, async () => {
    await using dir = await tempDir();
    await Deno.writeTextFile(dir.join("uuid"), text);
    await assertRejects(() => readTarget(deadline, dir.path), RecordError, "holds no chain id");
  });
}

/** How something that is not a file of qmpbackup gets in the place of one. */
const INTRUDERS: Record<string, (path: string) => Promise<void>> = {
  "a folder": (path) => Deno.mkdir(path),
  "a dangling link": (path) => Deno.symlink("nowhere", path),
  "a link to itself": (path) => Deno.symlink(path, path),
  "a link to a file": (path) => Deno.symlink("/etc/hostname", path),
  "a device": (path) => Deno.symlink("/dev/zero", path),
  "a pipe": async (path) => {
    await new Deno.Command("mkfifo", { args: [path] }).output();
  },
  "a huge file": async (path) => {
    using file = await Deno.create(path);
    await file.truncate(2 ** 40);
  },
};
for (const [what, make] of Object.entries(INTRUDERS)) {
  Deno.test(`\`readTarget()\` refuses ${what} in place of the chain id`, async () => {
    await using dir = await tempDir();
    await make(dir.join("uuid"));
    const error = await within(
      CHILD_MS,
      assertRejects(() => readTarget(deadline, dir.path), Failure),
    );
    assertStringIncludes(error.message, dir.join("uuid"));
  });

  Deno.test(`\`readTarget()\` refuses ${what} in place of a record`, async () => {
    await using dir = await tempDir();
    await createTarget(deadline, dir.path);
    await writeRun(deadline, dir.path, runRecord("run-1", 1));
    await make(dir.join(RUNS_FOLDER, "run-2.json"));
    const error = await within(
      CHILD_MS,
      assertRejects(() => readTarget(deadline, dir.path), Failure),
    );
    assertStringIncludes(error.message, "run-2.json");
  });
}

const good = () => JSON.parse(formatRecord(runRecord("run-2", 2)));
const BAD_RECORDS: Record<string, { text: string; says: string }> = {
  "cut short": { text: formatRecord(runRecord("run-2", 2)).slice(0, 100), says: "is not JSON" },
  "empty": { text: "", says: "is not JSON" },
  "zeroed": { text: "\0".repeat(512), says: "is not JSON" },
  "of another kind": { text: "[]", says: "is damaged or not ours" },
  "of a newer version": { text: JSON.stringify({ ...good(), version: 2 }), says: "a newer" },
  "whose name is another's": { text: formatRecord(runRecord("run-3", 3)), says: "a copy" },
  "that claims another's place": {
    text: formatRecord(runRecord("run-2", 1)),
    says: "both say that they are number 1",
  },
  "that is deep": { text: "[".repeat(4 << 20), says: "is not JSON" },
  "that is deep and whole": {
    text: `{"format":"qmpbackup-run","version":1,"x":${"[".repeat(9999)}${"]".repeat(9999)}}`,
    says: "is not JSON",
  },
  "that is all one line of 15 MiB": { text: `"${"x".repeat(15 << 20)}"`, says: "too large" },
  "that leads outside": {
    text: JSON.stringify({ ...good(), disks: [{ ...disk(), file: "../../etc/passwd" }] }),
    says: "is not a path inside of the target",
  },
};
for (const [what, { text, says }] of Object.entries(BAD_RECORDS)) {
  Deno.test(`\`readTarget()\` refuses a record ${what}`, async () => {
    await using dir = await tempDir();
    await createTarget(deadline, dir.path);
    await writeRun(deadline, dir.path, runRecord("run-1", 1));
    await Deno.writeTextFile(dir.join(RUNS_FOLDER, "run-2.json"), text);
    const error = await assertRejects(() => readTarget(deadline, dir.path), RecordError, says);
    assertStringIncludes(error.message, "run-2");
  });
}

Deno.test("`readTarget()` passes over a record that was not written whole", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  await writeRun(deadline, dir.path, runRecord("run-1", 1));
  await Deno.writeTextFile(dir.join(RUNS_FOLDER, "run-2.json.tmp"), '{"format": "qmp');
  assertEquals((await readTarget(deadline, dir.path)).runs.length, 1);
});

Deno.test("`readTarget()` says what is wrong if the folder of the records is a file", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("_qmpbackup"), "");
  const error = await assertRejects(() => readTarget(deadline, dir.path), Error);
  assertInstanceOf(error, Failure);
  assertStringIncludes(error.message, "_qmpbackup");
});

async function names(path: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name).sort();
}

function disk(): RunRecord["disks"][number] {
  return {
    id: "/machine/peripheral/vd0/virtio-backend",
    name: "disk0",
    folder: "disk0",
    source: "/vm/disk0.qcow2",
    node: "disk0",
    level: "full",
    reason: "asked for",
    bitmap: "qmpbackup-disk0-3f9a2c11-chain-1",
    granularityBytes: 65536,
    sentinel: null,
    backing: null,
    fleece: "/vm/qmpbackup-3f9a2c11-0.fleece",
    file: "disk0/FULL-1-disk0.qcow2",
    parent: null,
    unrecorded: [],
    virtualSizeBytes: 1 << 20,
    bytesWritten: 1 << 16,
    result: "done",
    error: null,
  };
}

function runRecord(id: string, sequence: number): RunRecord {
  return {
    ...RECORD_HEAD,
    id,
    sequence,
    level: "auto",
    state: "done",
    chain: "chain-1",
    started: "2026-11-22T23:00:00.000Z",
    pointInTime: "2026-11-22T23:00:01.000Z",
    finished: "2026-11-22T23:00:02.000Z",
    tool: "0.1.0",
    qemu: "7.2.22",
    vm: { name: "vm1", uuid: "" },
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks: [disk()],
    leftOut: [],
    warnings: [],
  };
}

/** What a guest, its agent or QEMU may say; control characters take six bytes each in a record. */
const HUGE = `It says: ${"\x01\u202e".repeat(4 << 20)} end`;

Deno.test("`writeRun()` writes no record that `readTarget()` refuses, whatever was said", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await createTarget(deadline, target);
  const disks = Array.from({ length: 1000 }, (_, i) => {
    const [name, error] = [`disk${i}`, HUGE.slice(0, 1 << 16)];
    const paths = { folder: name, file: `${name}/FULL-1795392375-${name}`, fleece: `/vm/${i}` };
    return aDiskRecord(name, { id: `/${i}`, ...paths, result: "failed", error });
  });
  const runs = [
    aRun([aDiskRecord("disk0", { error: HUGE, reason: HUGE })], { warnings: [HUGE] }),
    aRun([aDiskRecord("disk0")], { warnings: Array(20_000).fill(HUGE.slice(0, 5000)) }),
    aRun(disks, { warnings: Array(1000).fill(HUGE.slice(0, 5000)) }),
    aRun([aDiskRecord("disk0")], { leftOut: [{ device: "tpm0", reason: HUGE }] }),
  ].map((run, i) => ({ ...run, id: `2026112${i}T000000Z-0000000${i}`, sequence: i + 1 }));
  for (const run of runs) await writeRun(deadline, target, run);
  const read = (await readTarget(deadline, target)).runs;
  assertEquals(read.map(({ id }) => id), runs.map(({ id }) => id));
  const [first, second, third] = read;
  assertStringIncludes(first?.warnings.join() ?? "", "It says: ");
  assertStringIncludes(first?.warnings.join() ?? "", " end");
  assertStringIncludes(first?.disks[0]?.error ?? "", "It says: ");
  assertEquals(second?.warnings.at(-1), "19501 more that are not recorded");
  assertEquals(third?.disks.length, 1000);
  // Written once more, as recovery does, it stays as it is.
  for (const run of read) await writeRun(deadline, target, run);
  assertEquals((await readTarget(deadline, target)).runs, read);
});

Deno.test("`writeRun()` refuses at its beginning a run whose record nobody could read", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await createTarget(deadline, target);
  // What can't be cut, since later runs go by it.
  const unrecorded = Array(40_000).fill(`FULL-1795392375-${"x".repeat(200)}`);
  const run = aRun([aDiskRecord("disk0", { unrecorded, result: "pending" })], { state: "running" });
  await assertRejects(() => writeRun(deadline, target, run), RecordError, "would be longer");
  const broken = aRun([aDiskRecord("disk0", { file: "../disk.qcow2" })]);
  await assertRejects(() => writeRun(deadline, target, broken), RecordError, "disks.0.file");
  assertEquals((await readTarget(deadline, target)).runs, []);
});
