/**
 * What is reported as done has been flushed: file, folder, record, in this order, and only then is the
 * bitmap given up that would bring it all back. Seen in the system calls of real runs.
 *
 * @module
 */

import { assertEquals, assertExists, assertMatch } from "@std/assert";
import { basename, dirname, join } from "@std/path";
import { exists } from "../../src/fs/durable.ts";
import { partialName } from "../../src/repo/layout.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import {
  assertNothingLeft,
  filesOf,
  recordsOf,
  type Scene,
  scene,
  setSpeed,
  until,
  untilJobs,
} from "../support/scene.ts";
import { assertOrder, type Call, findCall, type Step, trace } from "../support/strace.ts";
import { ended, startTool, succeed } from "../support/tool.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;

/** Below the target, as strace prints a file's name (`<…>` for an open one, `"…"` for a path). */
interface Names {
  open(...path: string[]): string;
  named(...path: string[]): string;
}

function namesIn(folder: string): Names {
  return {
    open: (...path) => `<${join(folder, ...path)}>`,
    named: (...path) => `"${join(folder, ...path)}"`,
  };
}

/** A file that is written whole under another name, flushed, renamed, and its folder flushed. */
function written({ open, named }: Names, partial: string, path: string): Step[] {
  return [
    ["write", open(partial)],
    ["fsync", open(partial)],
    ["rename", named(partial), named(path)],
    ["fsync", open(dirname(path))],
  ];
}

/** Traces a backup, and returns the new image and the record too. */
async function tracedBackup(s: Scene, level: string, ...more: string[]) {
  const before = await exists(deadline, s.target) ? await filesOf(s.target) : [];
  const { code, stderr, calls } = await trace(s.backupArgs(level, ...more));
  assertEquals(code, 0, stderr);
  const files = await filesOf(s.target);
  const isNew = (file: string) => /\/(FULL|INC)-/.test(file) && !before.includes(file);
  return { calls, image: files.find(isNew) ?? "" };
}

/** Whatever was written to a file before a call had been flushed when that call began. */
function assertFlushed(calls: Call[], file: string, { begin }: Call) {
  const writes = calls.filter((call) =>
    call.name === "write" && call.begin < begin && call.text.includes(file)
  );
  const last = writes.at(-1);
  assertExists(last, `no write to ${file}`);
  const flush = findCall(calls, ["fsync", file], last.end);
  assertExists(flush, `no flush of ${file}`);
  assertEquals(flush.end < begin, true, file);
}

/** The record's last writing: what makes the backup count. */
function recordOf(calls: Call[]): { record: string; at: number } {
  const renames = calls.filter(({ name, text }) =>
    name === "rename" && /\/runs\/[^/"]*\.json\.tmp"/.test(text)
  );
  const last = renames.at(-1);
  const [, record = ""] = /\/runs\/([^/"]+\.json)\.tmp"/.exec(last?.text ?? "") ?? [];
  assertExists(last);
  return { record: join("_qmpbackup/runs", record), at: last.begin };
}

/** Every folder that was made is named by a flushed one before the record says that all is done. */
function assertFoldersFlushed(calls: Call[], folders: string[]) {
  const { at } = recordOf(calls);
  for (const folder of folders) {
    const made = assertOrder(calls, [["mkdir", `"${folder}"`]]);
    const flush = assertOrder(calls, [["fsync", `<${dirname(folder)}>`]], made.end);
    assertEquals(flush.end < at, true, folder);
  }
}

Deno.test("backup gives up the old bitmap when image, folder, id and record are flushed", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 0, 12 * MIB);
  await s.remember("inc");
  const { calls, image } = await tracedBackup(s, "inc");
  const t = namesIn(s.target);
  const { record } = recordOf(calls);
  const partial = partialName(image, basename(record, ".json"));
  // QEMU has written its last byte; what is flushed now is all of it.
  const closed = assertOrder(calls, [["send", '"blockdev-reopen"', '"read-only":true']]);
  const published = assertOrder(calls, [
    ["fsync", t.open(partial)],
    ["rename", t.named(partial), t.named(image)],
    ["fsync", t.open("disk0")],
    ...written(t, "_qmpbackup/disk0.qcow2.config.tmp", "disk0.qcow2.config"),
    ...written(t, `${record}.tmp`, record),
  ], closed.end);
  const removals = calls.filter(({ name, text }) =>
    name === "send" && text.includes('"block-dirty-bitmap-remove"')
  );
  assertEquals(removals.length, 1);
  assertEquals(removals.every(({ begin }) => begin > published.end), true);
  // The record of the full backup is read once.
  const [full = ""] = (await recordsOf(s.target)).filter((name) => name !== basename(record));
  const opened = calls.filter(({ name, text }) => name === "open" && text.includes(full));
  assertEquals(opened.map(({ text }) => text.includes("O_WRONLY")), [false], full);
  // The target's own name, of a run that died before it could: at every run.
  assertExists(findCall(calls, ["fsync", `<${dirname(s.target)}>`]));
  await s.assertRestores("inc");
});

Deno.test("backup removes an image that is replaced when the new one's record is flushed", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full", "--no-timestamp"));
  await s.remember("second");
  const { code, stderr, calls } = await trace(s.backupArgs("full", "--no-timestamp"));
  assertEquals(code, 0, stderr);
  const t = namesIn(s.target);
  const { record } = recordOf(calls);
  const image = "disk0/disk0.qcow2";
  const partial = partialName(image, basename(record, ".json"));
  const published = assertOrder(calls, [
    ["rename", t.named(image), t.named(`${image}.replaced`)],
    ["fsync", t.open(partial)],
    ["rename", t.named(partial), t.named(image)],
    ["fsync", t.open("disk0")],
  ]);
  // The record that says "running" was written before.
  const recorded = assertOrder(calls, written(t, `${record}.tmp`, record), published.end);
  const removed = findCall(calls, ["unlink", t.named(`${image}.replaced`)]);
  assertExists(removed);
  assertEquals(removed.begin > recorded.end, true);
  await s.assertRestores("second");
});

Deno.test("backup flushes what names a new target, its folders and its id before the record", async () => {
  await using s = await scene({ disks: 1 });
  const target = join(s.target, "a", "b");
  const { code, stderr, calls } = await trace([
    ...["backup", "--socket", s.vm.socket, "--level", "full", "--target", target],
  ]);
  assertEquals(code, 0, stderr);
  const t = namesIn(target);
  const records = join(target, "_qmpbackup");
  const folders = [s.target, join(s.target, "a"), target, records, join(records, "runs")];
  assertFoldersFlushed(calls, [...folders, join(target, "disk0")]);
  const { record } = recordOf(calls);
  assertOrder(calls, [
    ...written(t, "_qmpbackup/disk0.qcow2.config.tmp", "disk0.qcow2.config"),
    ...written(t, "_qmpbackup/uuid.tmp", "uuid"),
    ...written(t, `${record}.tmp`, record),
  ]);
});

Deno.test("backup writes the record of what it begins before it puts anything into QEMU", async () => {
  await using s = await scene({ disks: 1 });
  const { calls } = await tracedBackup(s, "full");
  const t = namesIn(s.target);
  const { record } = recordOf(calls);
  const begun = assertOrder(calls, written(t, `${record}.tmp`, record));
  for (const command of ["blockdev-add", "block-dirty-bitmap-add", "qom-set", "transaction"]) {
    const sent = findCall(calls, ["send", `"execute":"${command}"`]);
    assertExists(sent, command);
    assertEquals(sent.begin > begun.end, true, command);
  }
});

Deno.test("restore merge flushes the new file, then its folder, and names it last", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const out = s.dir.join("new", "out");
  const args = ["restore", "merge", "--dir", s.target, "--target-dir", out];
  const { code, stderr, calls } = await trace(args);
  assertEquals(code, 0, stderr);
  const o = namesIn(out);
  assertOrder(calls, [
    ["mkdir", `"${dirname(out)}"`],
    ["fsync", `<${s.dir.path}>`],
    ["mkdir", `"${out}"`],
    ["fsync", `<${dirname(out)}>`],
    ["fsync", o.open("disk0.qcow2.partial")],
    ["link", o.named("disk0.qcow2.partial"), o.named("disk0.qcow2")],
    ["fsync", `<${out}>`],
  ]);
  const named = findCall(calls, ["link", o.named("disk0.qcow2.partial")]) as Call;
  assertFlushed(calls, o.open("disk0.qcow2.partial"), named);
});

Deno.test("restore commit flushes the full backup and its record before it removes an increment", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 0, 12 * MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  const [full = "", inc = ""] = (await filesOf(s.target)).filter((f) => /\/(FULL|INC)-/.test(f));
  const { code, stderr, calls } = await trace(["restore", "commit", "--dir", s.target]);
  assertEquals(code, 0, stderr);
  const t = namesIn(s.target);
  const unlinked = assertOrder(calls, [["unlink", t.named(inc)]]);
  const { record } = recordOf(calls);
  const recorded = assertOrder(calls, [
    ["write", t.open(full)],
    ["fsync", t.open(full)],
    ...written(t, `${record}.tmp`, record),
  ]);
  assertEquals(recorded.end < unlinked.begin, true);
  assertFlushed(calls, t.open(full), unlinked);
  assertOrder(calls, [["fsync", t.open("disk0")]], unlinked.end);
  await s.assertRestores("inc");
});

// Deno 2.4 takes a child that strace is attached to for one that has ended, and panics (tokio's pidfd).
const isDeno24 = Deno.version.deno.startsWith("2.4.");

Deno.test("an image whose record may say that it is done stays", { ignore: isDeno24 }, async () => {
  await using s = await scene({ disks: 1 });
  await ensurePrograms({ strace: "strace" });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x61, 0, 12 * MIB);
  const child = startTool(s.backupArgs("inc", "--speed-limit", "1"));
  await untilJobs(s.vm, 1);
  // From here on no change of a record can be flushed.
  const faults = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO"];
  const runs = join(s.target, "_qmpbackup/runs");
  const strace = new Deno.Command("strace", {
    args: ["-f", "-qq", "-o", "/dev/null", "-P", runs, ...faults, "-p", String(child.pid)],
  }).spawn();
  const isTraced = async () =>
    /TracerPid:\t[1-9]/.test(await Deno.readTextFile(`/proc/${child.pid}/status`));
  await until(isTraced);
  await setSpeed(s.vm);
  const { code, stderr } = await ended(child);
  await strace.status;
  assertEquals(code, 1, stderr);
  assertMatch(stderr, /The record ".*" can't be written/);
  assertEquals((await filesOf(s.target)).filter((file) => file.includes("/INC-")).length, 1);

  await s.vm.write("vd0", 0x62, 20 * MIB, MIB);
  await s.remember("next");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("next");
  await assertNothingLeft(s.vm, 1);
});
