import { assertEquals, assertStringIncludes } from "@std/assert";
import { localTime } from "../../../src/time.ts";
import { adoptedId, type DiskRecord } from "../../../src/repo/record.ts";
import { restoreFileText } from "../../../src/repo/restore_file.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

const full = (disk: string, change: Partial<DiskRecord> = {}) =>
  aDiskRecord(disk, { file: `${disk}/FULL-1-${disk}`, ...change });
const inc = (disk: string, change: Partial<DiskRecord> = {}) =>
  aDiskRecord(disk, {
    level: "inc",
    file: `${disk}/INC-2-${disk}`,
    parent: `${disk}/FULL-1-${disk}`,
    ...change,
  });
const second = (disks: DiskRecord[]) => aRun(disks, { id: "run2", sequence: 2 });

/** The commands that are to be typed, without the spaces before them. */
function commandsOf(text: string, from: string): string[] {
  const part = text.slice(text.indexOf(from)).split(/\n[A-Z ]{8,}\n/)[0] ?? "";
  return part.split("\n").filter((line) => line.startsWith("  ")).map((line) => line.trim());
}

Deno.test("restoreFileText() names the newest point and its real files", () => {
  const text = restoreFileText([
    aRun([full("disk0"), full("disk1", { format: "raw" })]),
    second([inc("disk0"), inc("disk1", { format: "raw" })]),
  ]);
  assertStringIncludes(text, 'The virtual machine is called "vm1".');
  assertStringIncludes(
    text,
    `with all disks: ${localTime(new Date("2026-11-21T23:00:01Z"))} (run run2)`,
  );
  assertStringIncludes(text, "disk0: disk0/INC-2-disk0 (16 MiB, builds on 1 more in its folder");
  assertEquals(commandsOf(text, "WITHOUT QMPBACKUP\n").slice(0, 3), [
    "mkdir -p /new/folder",
    "qemu-img convert -p -f qcow2 -O qcow2 ./disk0/INC-2-disk0 /new/folder/disk0.qcow2",
    "qemu-img convert -p -f qcow2 -O raw ./disk1/INC-2-disk1 /new/folder/disk1.raw",
  ]);
});

Deno.test("restoreFileText() gives each image of an encrypted chain its key", () => {
  const encrypted = { encrypted: true } as const;
  const text = restoreFileText([
    aRun([full("a,b", encrypted), full("plain")]),
    second([inc("a,b", encrypted), inc("plain")]),
  ]);
  assertStringIncludes(text, "The images are encrypted.");
  assertStringIncludes(text, "--until run2 --target-dir /new/folder --key-file /path/of/the/key\n");
  assertEquals(commandsOf(text, "WITHOUT QMPBACKUP\n").slice(1), [
    "qemu-img convert -p --object secret,id=key,file=/path/of/the/key -O qcow2 --image-opts " +
    "driver=qcow2,file.driver=file,file.filename=./a,,b/INC-2-a,,b,encrypt.key-secret=key," +
    "backing.encrypt.key-secret=key /new/folder/a,b.qcow2",
    "qemu-img convert -p -f qcow2 -O qcow2 ./plain/INC-2-plain /new/folder/plain.qcow2",
    'qemu-img create -f qcow2 -F qcow2 -b "$PWD"/plain/INC-2-plain /new/folder/plain.overlay.qcow2',
  ]);
});

Deno.test("restoreFileText() restores the newest run with all disks, and names a newer one", () => {
  const text = restoreFileText([
    aRun([full("disk0"), full("disk1")], { id: "run1" }),
    second([inc("disk0"), inc("disk1", { result: "failed" })]),
  ]);
  assertStringIncludes(text, "--until run1 --target-dir /new/folder");
  assertStringIncludes(text, "a newer run, run2 of");
  assertStringIncludes(text, 'which lacks "disk1" (failed).');
});

Deno.test("restoreFileText() names the newest image of each disk where no run has all", () => {
  const text = restoreFileText([
    aRun([full("disk0", { result: "failed" }), full("disk1")], { id: "run1" }),
    second([full("disk0"), full("disk1", { result: "failed" })]),
  ]);
  assertStringIncludes(text, "no point in time with all disks");
  const single = (disk: string) =>
    `qmpbackup restore merge --dir ${disk} --until FULL-1-${disk} --targetfile /new/folder/${disk}.qcow2`;
  assertEquals(commandsOf(text, "WITH QMPBACKUP\n").slice(1), [single("disk1"), single("disk0")]);
});

Deno.test("restoreFileText() links what the Python tool left unlinked", () => {
  const text = restoreFileText([
    aRun([full("disk0")], { id: adoptedId(1, "0a0a0a00") }),
    aRun([inc("disk0")], { id: adoptedId(2, "0a0a0a00"), sequence: 2 }),
  ]);
  assertEquals(
    commandsOf(text, "WITHOUT QMPBACKUP\n")[0],
    "qemu-img rebase -u -f qcow2 -F qcow2 -b ./FULL-1-disk0 ./disk0/INC-2-disk0",
  );
});

Deno.test("restoreFileText() lets no name of a VM write a line of its own", () => {
  const text = restoreFileText([
    aRun([full("disk0")], { vm: { name: "a\n  rm -rf /", uuid: "" } }),
  ]);
  assertEquals(text.split("\n").some((line) => line.startsWith("  rm")), false);
});
