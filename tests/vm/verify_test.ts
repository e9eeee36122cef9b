import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, dirname, join } from "@std/path";
import { Deadline } from "../../src/fs/deadline.ts";
import { type Backups, findBackups } from "../../src/verify/find.ts";
import { verify } from "../../src/verify/verify.ts";
import { mustRun } from "../support/run.ts";
import { assertNothingLeft, filesOf, type Scene, scene, until } from "../support/scene.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";

const MIB = 1 << 20;
const deadline = new Deadline(60_000);

/** Three points of two disks; "disk0" has a copy besides. */
async function backedUp(s: Scene) {
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x61, 30 * MIB, MIB);
  await succeed(s.backupArgs("inc"));
  await s.vm.write("vd0", 0x62, 40 * MIB, MIB);
  await succeed(s.backupArgs("inc"));
}

const verifyArgs = (dir: string, ...more: string[]) => ["restore", "verify", "--dir", dir, ...more];

interface DamageLine {
  file: string;
  range: { offset: number; length: number } | null;
  reason: string;
  spoiled: string[];
  intact: string[];
}

interface Found extends ToolResult {
  damages: DamageLine[];
  /** What is said of each target. */
  targets: { target: string; recorded: number; readBytes: number; stored: boolean }[];
}

async function verifyJson(dir: string, ...more: string[]): Promise<Found> {
  const result = await tool([...verifyArgs(dir, ...more), "--json"]);
  const lines = result.stdout.trim().split("\n").map((line) => JSON.parse(line));
  const of = (type: string) => lines.filter(({ message_type }) => message_type === type);
  return { ...result, damages: of("damage"), targets: of("verified") };
}

/** Flips one bit, as root may in a file that is read-only. */
async function flip(path: string, offset: number) {
  using file = await Deno.open(path, { read: true, write: true });
  const byte = new Uint8Array(1);
  await file.seek(offset, Deno.SeekMode.Start);
  await file.read(byte);
  byte[0] = (byte[0] as number) ^ 0x10;
  await file.seek(offset, Deno.SeekMode.Start);
  await file.write(byte);
}

/** Where each region of a qcow2 image begins that it has. */
async function regionsOf(path: string): Promise<Record<string, number>> {
  const view = new DataView((await Deno.readFile(path)).buffer);
  const at = (offset: number) => Number(view.getBigUint64(offset) & 0x00ff_ffff_ffff_fe00n);
  const l1 = at(40), refcountTable = at(48);
  const l2 = at(l1);
  const entries = Array.from({ length: 8192 }, (_, i) => at(l2 + 8 * i));
  const data = entries.find((offset) => offset !== 0) as number;
  return {
    magic: 0,
    seal: 90,
    header: 25,
    "L1 table": l1 + 3,
    "L2 table": l2 + entries.indexOf(data) * 8 + 5,
    "refcount table": refcountTable + 5,
    "refcount block": at(refcountTable) + 9,
    data: data + 12_345,
    "last byte": view.byteLength - 1,
  };
}

/** The images of a disk, the oldest first. */
async function imagesOf(target: string, disk: string): Promise<string[]> {
  const files = (await filesOf(target)).filter((file) => dirname(file) === disk);
  const time = (file: string) => Number(/-(\d+)-/.exec(basename(file))?.[1]);
  return files.toSorted((a, b) => time(a) - time(b));
}

const digestsOf = (image: string) => `_qmpbackup/digests/${image}.json`;

Deno.test("restore verify finds a flipped bit in each region of each image, and all that is missing, cut, swapped or linked otherwise", async (t) => {
  await using s = await scene();
  await backedUp(s);
  const target = s.target;
  const [full, inc, last] = await imagesOf(target, "disk0") as [string, string, string];
  const others = await imagesOf(target, "disk1") as [string, string, string];

  await t.step("what is sound, and says so, in `info` too", async () => {
    const { stdout } = await succeed(verifyArgs(target));
    assertMatch(stdout, /: ok\. 6 restore points, 6 images, \d+(\.\d+)? MiB read\n$/);
    const info = await succeed(["info", "--dir", target]);
    assertMatch(info.stdout, /\nVerified .*: no damage\n$/);
    const { code, targets, damages } = await verifyJson(target);
    const sizes = await Promise.all([full, inc, last, ...others].map((file) => size(target, file)));
    assertEquals([code, damages, targets[0]?.recorded, targets[0]?.readBytes], [
      ...[0, [], 0],
      sizes.reduce((a, b) => a + b),
    ]);
  });

  const broken = s.dir.join("broken");
  /** Breaks a copy of the target, and says what `restore verify` finds. */
  async function found(
    breakIt: (path: (file: string) => string) => Promise<void>,
    ...more: string[]
  ) {
    await mustRun("cp", ["-a", target, broken]);
    await breakIt((file) => join(broken, file));
    const result = await verifyJson(broken, ...more);
    await Deno.remove(broken, { recursive: true });
    assertEquals(result.code, result.damages.length > 0 ? 1 : 0, result.stderr);
    return result;
  }
  const spoils = ({ damages }: Found) => [...new Set(damages.flatMap(({ spoiled }) => spoiled))];

  const SPOILED: [image: string, spoiled: string[]][] = [
    [full, [full, inc, last]],
    [inc, [inc, last]],
    [last, [last]],
  ];
  for (const [image, spoiled] of SPOILED) {
    await t.step(`a flipped bit in ${image.replace(/\d{6,}/, "…")}`, async () => {
      for (const [region, offset] of Object.entries(await regionsOf(join(target, image)))) {
        const result = await found((path) => flip(path(image), offset));
        const { damages } = result;
        assertEquals(spoils(result), spoiled, region);
        assertEquals(damages.map(({ file }) => file), damages.map(() => image), region);
        const [damage] = damages.filter(({ range }) => range !== null);
        assert(damage?.range, region);
        const { offset: start, length } = damage.range;
        assert(start <= offset && offset < start + length, region);
        assertEquals(damage.intact.length, 6 - spoiled.length, region);
      }
    });
  }

  await t.step("the digests' own file", async () => {
    for (const offset of [0, 40, 200]) {
      const result = await found((path) => flip(path(digestsOf(inc)), offset));
      const { damages: [damage] } = result;
      assertEquals([result.damages.length, damage?.file, spoils(result)], [1, digestsOf(inc), []]);
      assertStringIncludes(damage?.reason ?? "", "is damaged");
    }
  });

  await t.step("a parent that is missing", async () => {
    const result = await found((path) => Deno.remove(path(inc)));
    assertEquals(result.damages.map(({ file, reason }) => [file, reason]), [[inc, "is missing"]]);
    assertEquals(spoils(result), [inc, last]);
  });

  await t.step("a gap: a record of an image in the middle is gone", async () => {
    const result = await found(async (path) => {
      for await (const { name } of Deno.readDir(path("_qmpbackup/runs"))) {
        const file = path(`_qmpbackup/runs/${name}`);
        const { disks } = JSON.parse(await Deno.readTextFile(file));
        if (disks.some((disk: { file: string }) => disk.file === inc)) await Deno.remove(file);
      }
    });
    assertEquals(spoils(result).sort(), [last, others[2]].sort());
    assertStringIncludes(result.damages[0]?.reason ?? "", `No record of "${inc}"`);
    assertStringIncludes(result.stderr, `"${inc}" is in no record`);
  });

  await t.step("two images that were swapped", async () => {
    const result = await found(async (path) => {
      await Deno.rename(path(inc), path("swap"));
      await Deno.rename(path(last), path(inc));
      await Deno.rename(path("swap"), path(last));
    });
    assertEquals(new Set(result.damages.map(({ file }) => file)), new Set([inc, last]));
    assertEquals(spoils(result), [inc, last]);
  });

  await t.step("an image that was cut off, and one that has grown", async () => {
    const bytes = await size(target, full);
    const cut = await found((path) => Deno.truncate(path(full), bytes - 1000));
    const missing = cut.damages.find(({ range }) => range !== null);
    assertEquals(missing?.range, { offset: bytes - 1000, length: 1000 });
    assertStringIncludes(missing?.reason ?? "", "the file was cut off");
    assertEquals(spoils(cut), [full, inc, last]);
    const grown = await found((path) => Deno.truncate(path(full), bytes + 512));
    assertEquals(grown.damages.find(({ range }) => range)?.range, { offset: bytes, length: 512 });
  });

  await t.step("an image that is linked to another one, and one that is a link", async () => {
    const linked = await found((path) =>
      mustRun("qemu-img", [
        "rebase",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        basename(full),
        path(last),
      ])
        .then(() => {})
    );
    assertEquals(spoils(linked), [last]);
    const link = await found(async (path) => {
      await Deno.rename(path(last), path("elsewhere"));
      await Deno.symlink("../elsewhere", path(last));
    });
    assertEquals(spoils(link), [last]);
    assertStringIncludes(link.damages[0]?.reason ?? "", "is a symbolic link");
  });

  await t.step("a record that can't be read, and the targets beside it", async () => {
    const result = await found(async (path) => {
      await mustRun("cp", ["-a", target, path("beside")]);
      await Deno.mkdir(path("month"));
      for (const name of ["disk0", "disk1", "uuid", "_qmpbackup"]) {
        await Deno.rename(path(name), path(`month/${name}`));
      }
      const [name = ""] = await namesIn(path("month/_qmpbackup/runs"));
      await Deno.writeTextFile(path(`month/_qmpbackup/runs/${name}`), "{");
    });
    assertEquals(result.targets.map(({ target }) => basename(target)), ["beside", "month"]);
    assertEquals(result.damages.length, 1);
    assertStringIncludes(result.damages[0]?.reason ?? "", "is not JSON");
  });

  await t.step("it says all that for people, keeps it for `info`, and as metrics", async () => {
    await mustRun("cp", ["-a", target, broken]);
    const { data = 0 } = await regionsOf(join(target, inc));
    await flip(join(broken, inc), data);
    const metrics = s.dir.join("metrics.prom");
    const { code, stdout } = await tool(verifyArgs(broken, "--metrics-file", metrics));
    assertEquals(code, 1);
    assertStringIncludes(stdout, `Damage: "${inc}", bytes 0 to `);
    assertMatch(
      stdout,
      /\nSpoiled:\n {2}disk0\/INC-.*, of 20.*\n {2}disk0\/INC-.*\nNot spoiled:\n/,
    );
    assertStringIncludes(stdout, "\nWhat to do: put the damaged files back from a copy");
    const text = await Deno.readTextFile(metrics);
    assertMatch(
      text,
      /^qmpbackup_last_verified_timestamp_seconds\{vm=".*",target=".*broken"\} \d/m,
    );
    assertMatch(text, /^qmpbackup_verify_ok\{.*\} 0$/m);
    assertMatch(text, /^qmpbackup_verify_spoiled_points\{.*\} 2$/m);
    const info = await succeed(["info", "--dir", broken]);
    // What can't be trusted is not "ok", for a monitor neither.
    const check = await tool(["info", "--dir", broken, "--nagios"]);
    assertEquals(check.code, 2, check.stdout);
    assertStringIncludes(check.stdout, "was damaged when it was verified");
    assertMatch(info.stdout, /\nVerified .*: 1 damage, 2 restore points spoiled/);
    // The share of one day in 100 has hardly any of it: what was damaged is read all the same.
    const later = await verifyJson(broken, "--subset", "1%");
    assertEquals(later.damages.map(({ file }) => file), [inc]);
    await Deno.remove(broken, { recursive: true });
  });

  await t.step("what another run removes while it is verified is a warning", async () => {
    await mustRun("cp", ["-a", target, broken]);
    const [backups] = await findBackups(deadline, broken);
    const removeLast = () => {
      for (const { name } of Deno.readDirSync(join(broken, "_qmpbackup", "runs"))) {
        const file = join(broken, "_qmpbackup", "runs", name);
        if (Deno.readTextFileSync(file).includes(`"file": "${last}"`)) Deno.removeSync(file);
      }
      Deno.removeSync(join(broken, last));
    };
    let isBegun = false;
    const { result, warnings } = await verify(backups as Backups, {
      ...{ deadline, signal: new AbortController().signal, subset: null, day: 0, toolVersion: "" },
      keyFile: null,
      onProgress: () => {
        if (!isBegun) removeLast();
        isBegun = true;
      },
    });
    assertEquals(result.damages, []);
    assertEquals(warnings, [
      `"${last}" was changed or removed by another run meanwhile: it was not verified`,
    ]);
    await Deno.remove(broken, { recursive: true });
  });

  await t.step("one disk alone, and a share", async () => {
    const disk = await found((path) => flip(path(others[0]), 12), "--subset", "100%");
    assertEquals(spoils(disk), others);
    await mustRun("cp", ["-a", target, broken]);
    await flip(join(broken, others[0]), 12);
    assertEquals((await verifyJson(join(broken, "disk0"))).code, 0);
    const { code, stdout } = await tool(verifyArgs(join(broken, "disk1")));
    assertEquals(code, 1);
    assertStringIncludes(stdout, "broken/disk1: ");
    await Deno.remove(broken, { recursive: true });
  });
});

/** A `qemu-img` of its own for a run: `before` is what a shell does before the real one. */
async function qemuImgInFront(folder: string, before: string): Promise<{ PATH: string }> {
  await Deno.mkdir(folder);
  const script = `#!/bin/bash\n${before}\nPATH=\${PATH#*:} exec qemu-img "$@"\n`;
  await Deno.writeTextFile(join(folder, "qemu-img"), script, { mode: 0o755 });
  return { PATH: `${folder}:${Deno.env.get("PATH")}` };
}

/** Damages the image of "disk1" before it is compared; where it is not, before it is checked. */
const LYING_STORAGE = `
for word; do
  image=$(grep -o '/[^"]*/disk1/[^"]*\\.partial' <<<"$word")
  if [[ ( $1 = compare || $1 = check ) && -n $image && ! -e $0.done ]]; then
    touch "$0.done"
    qemu-io -f qcow2 -c "write -P 0x99 5M 64k" "$image" >/dev/null
  fi
done`;

Deno.test("backup --verify compares each new image with the point in time, and a disk whose image differs has failed", async () => {
  await using s = await scene({ overlays: true });
  const same = (stderr: string) => stderr.match(/the image holds what the disk held/g)?.length;
  const full = await succeed(s.backupArgs("full", "--verify", "--compress"));
  assertEquals(same(full.stderr), 2);
  await s.vm.write("vd0", 0x61, 12 * MIB, MIB);
  await s.vm.write("vd1", 0x62, 5 * MIB, MIB);
  await s.remember("inc");
  const lying = startTool(s.backupArgs("inc", "--verify"), {
    env: await qemuImgInFront(s.dir.join("lying"), LYING_STORAGE),
  });
  const { code, stderr } = await ended(lying);
  assertEquals(code, 1, stderr);
  assertEquals(same(stderr), 1);
  assertStringIncludes(
    stderr,
    'The new image of the disk "disk1" does not hold what the disk held at the point in time (the first ' +
      `difference is at byte ${5 * MIB} of the disk): it was removed`,
  );
  await assertNothingLeft(s.vm, 1);
  assertEquals((await imagesOf(s.target, "disk1")).length, 1);
  // What the guest writes while it is compared is not in it, and changes nothing.
  const slow = s.dir.join("slow", "qemu-img");
  const wait =
    `[[ $1 != compare ]] || { touch "$0.asked"; until [ -e "$0.go" ]; do sleep 0.05; done; }`;
  const verified = startTool(s.backupArgs("inc", "--verify"), {
    env: await qemuImgInFront(dirname(slow), wait),
  });
  await until(() => Deno.stat(`${slow}.asked`).then(() => true, () => false));
  for (const disk of ["vd0", "vd1"]) await s.vm.write(disk, 0x77, 4 * MIB, 10 * MIB);
  await Deno.writeTextFile(`${slow}.go`, "");
  const inc = await ended(verified);
  assertEquals([inc.code, same(inc.stderr)], [0, 2], inc.stderr);
  await s.assertRestores("inc");
  await succeed(verifyArgs(s.target));
  // Without --verify nobody notices.
  await s.vm.write("vd1", 0x63, 5 * MIB, MIB);
  const unseen = startTool(s.backupArgs("inc"), {
    env: await qemuImgInFront(s.dir.join("unseen"), LYING_STORAGE),
  });
  assertEquals((await ended(unseen)).code, 0);
  assert(await Deno.stat(s.dir.join("unseen", "qemu-img.done")));
});

async function size(target: string, file: string): Promise<number> {
  return (await Deno.stat(join(target, file))).size;
}

async function namesIn(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}
