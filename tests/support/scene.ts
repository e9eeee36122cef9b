/**
 * A VM of two disks with some data, a target, and what the disks held at each backup.
 *
 * @module
 */

import { isSentinel } from "../../src/vm/names.ts";
import { compare, convertToRaw, create, qemuIo } from "./qemu_img.ts";
import { type TempDir, tempDir } from "./temp_dir.ts";
import { succeed } from "./tool.ts";
import { type DiskSpec, startVm, type Vm, type VmOptions } from "./vm.ts";

const MIB = 1 << 20;

export interface Scene extends AsyncDisposable {
  dir: TempDir;
  vm: Vm;
  /** How many it began with: "vd0" and so on. */
  disks: number;
  /** Another QMP socket of the VM. */
  secondSocket: string;
  /** Does not exist at first. */
  target: string;
  /** The `backup` command line for this VM and target. */
  backupArgs(level: string, ...more: string[]): string[];
  /** Copies what each disk holds now, to be compared with later. */
  remember(moment: string): Promise<void>;
  /** Restores all disks at a point and compares each with what it held at that moment. */
  assertRestores(moment: string, until?: string): Promise<void>;
  /** Ends the VM the hard way and starts it again on the same disks. */
  restart(): Promise<void>;
}

export interface SceneOptions {
  disks?: number;
  diskBytes?: number;
  /** The folder of the disks' files; else they lie beside all else. */
  diskFolder?: string;
  /** Whether each disk is an overlay over a template, which holds 0x3… from 6 to 18 MiB and at 30 MiB. */
  overlays?: boolean;
  vm?: Partial<VmOptions>;
  /** Whether the VM has a human monitor, at the path "hmp" in the folder. */
  hmp?: boolean;
}

/** Sets the scene: each disk holds some data already. */
export async function scene(options: SceneOptions = {}): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const folder = options.diskFolder ?? ".";
  await Deno.mkdir(dir.join(folder), { recursive: true });
  const specs = Array.from({ length: options.disks ?? 2 }, (_, i): DiskSpec => ({
    id: `vd${i}`,
    node: `disk${i}`,
    path: dir.join(folder, `disk${i}.qcow2`),
    format: "qcow2",
    sizeBytes: options.diskBytes ?? 64 * MIB,
  }));
  if (options.overlays) await Promise.all(specs.map(makeOverlay));
  const secondSocket = dir.join("second.qmp");
  const qemuArgs = [
    ...["-qmp", `unix:${secondSocket},server=on,wait=off`],
    ...(options.hmp ? ["-monitor", `unix:${dir.join("hmp")},server=on,wait=off`] : []),
    ...(options.vm?.qemuArgs ?? []),
  ];
  const start = () => startVm({ dir: dir.path, disks: specs, ...options.vm, qemuArgs });
  let vm = await start();
  stack.defer(() => vm[Symbol.asyncDispose]());
  for (const [i, { id }] of specs.entries()) {
    await vm.write(id, 0x10 + i, 0, 8 * MIB);
    await vm.write(id, 0x20 + i, 20 * MIB, MIB);
  }
  const target = dir.join("target");
  const cleanup = stack.move();
  let restores = 0;
  const ids = () => specs.map(({ id }) => id);
  return {
    dir,
    disks: specs.length,
    get vm() {
      return vm;
    },
    secondSocket,
    target,
    backupArgs: (level, ...more) => [
      ...["backup", "--socket", vm.socket, "--level", level, "--target", target],
      ...more,
    ],
    async remember(moment) {
      for (const id of ids()) await vm.snapshotContents(id, dir.join(`${moment}.${id}.raw`));
    },
    async assertRestores(moment, until) {
      const out = dir.join(`out${restores++}`);
      const when = until === undefined ? [] : ["--until", until];
      await succeed(["restore", "merge", "--dir", target, "--target-dir", out, ...when]);
      for (const { id, node } of specs) {
        await compare(dir.join(`${moment}.${id}.raw`), "raw", `${out}/${node}.qcow2`, "qcow2");
      }
      await Deno.remove(out, { recursive: true });
    },
    async restart() {
      vm.kill("SIGKILL");
      await vm.exited;
      await vm[Symbol.asyncDispose]();
      vm = await start();
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

/** Makes a template with data in it, and the disk's image as an overlay over that. */
async function makeOverlay({ path, sizeBytes = 0 }: DiskSpec, index: number): Promise<void> {
  const template = `${path}.template`;
  await create(template, sizeBytes);
  await qemuIo(template, "qcow2", `write -P ${0x30 + index} 6M 12M`);
  await qemuIo(template, "qcow2", `write -P ${0x38 + index} 30M 4M`);
  await create(path, sizeBytes, { backing: template });
}

/** The files of a target, relative to it, sorted; the records and `RESTORE.txt` left out. */
export async function filesOf(target: string): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(target)) {
    if (name === "_qmpbackup" || name === "RESTORE.txt") continue;
    if (!isDirectory) files.push(name);
    else {for await (const file of Deno.readDir(`${target}/${name}`)) {
        files.push(`${name}/${file.name}`);
      }}
  }
  return files.sort();
}

/** The names of a target's records, sorted. */
export async function recordsOf(target: string): Promise<string[]> {
  const runs = `${target}/_qmpbackup/runs`;
  return (await Array.fromAsync(Deno.readDir(runs), ({ name }) => name)).sort();
}

/** Compares an image with a raw copy by way of plain `qemu-img convert`, as without this tool. */
export async function assertPlainConvert(image: string, rawCopy: string): Promise<void> {
  const plain = `${rawCopy}.plain`;
  await convertToRaw(image, "qcow2", plain);
  await compare(plain, "raw", rawCopy, "raw");
  await Deno.remove(plain);
}

interface BlockInfo {
  device: string;
  qdev?: string;
  inserted?: { "node-name": string; "dirty-bitmaps"?: { name: string }[] };
}

/** What `query-block` says on the fixture's own connection. */
export async function queryBlock(vm: Vm): Promise<BlockInfo[]> {
  return await vm.execute("query-block") as BlockInfo[];
}

/**
 * Resolves once the point in time of a run of ours is taken: the guest's writes to all disks go through a
 * gate and a filter, and the snapshots are there.
 */
export async function untilSwitched(vm: Vm): Promise<void> {
  await until(async () => {
    const roots = (await queryBlock(vm)).map(({ inserted }) => inserted?.["node-name"] ?? "");
    const snapshots = (await nodeNames(vm)).filter((name) => name.endsWith("-snap"));
    return roots.every((name) => name.endsWith("-gate")) && snapshots.length === roots.length;
  });
}

/** Resolves once the jobs of two disks, or of more, are at work, too. */
export async function untilCopying(vm: Vm): Promise<void> {
  await untilSwitched(vm);
  await until(async () => await jobCount(vm) >= 2);
}

/** Resolves once QEMU has so many jobs. */
export async function untilJobs(vm: Vm, count: number): Promise<void> {
  await until(async () => await jobCount(vm) === count);
}

async function jobCount(vm: Vm): Promise<number> {
  return (await jobIds(vm)).length;
}

/** The names of all of QEMU's jobs. */
export async function jobIds(vm: Vm): Promise<string[]> {
  return (await vm.execute("query-jobs") as { id: string }[]).map(({ id }) => id);
}

/**
 * Sets the speed of all jobs, by default to no limit: with `--speed-limit` a run lasts until a test has done what it
 * wants to do meanwhile, however slow the machine is, and then no longer.
 */
export async function setSpeed(vm: Vm, bytesPerSecond = 0): Promise<void> {
  for (const device of await jobIds(vm)) {
    // One that is over needs none.
    await vm.execute("block-job-set-speed", { device, speed: bytesPerSecond }).catch(() => {});
  }
}

/** The names of all of QEMU's block nodes. */
export async function nodeNames(vm: Vm): Promise<string[]> {
  const nodes = await vm.execute("query-named-block-nodes", { flat: true }) as {
    "node-name": string;
  }[];
  return nodes.map((node) => node["node-name"]);
}

/** Polls until a condition holds; gives up after two minutes, or as long as is said. */
export async function until(condition: () => Promise<boolean>, seconds = 120): Promise<void> {
  const giveUp = Date.now() + seconds * 1000;
  while (!await condition()) {
    if (Date.now() > giveUp) throw new Error(`Waited ${seconds} s for nothing`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Names what is left in QEMU of ours: jobs, nodes, filters and marks. */
export async function leftInQemu(vm: Vm): Promise<string[]> {
  const jobs = await vm.execute("query-jobs") as unknown[];
  const nodes = await vm.execute("query-named-block-nodes", { flat: true }) as {
    "node-name": string;
    "dirty-bitmaps"?: { name: string }[];
  }[];
  const objects = await vm.execute("qom-list", { path: "/objects" }) as { name: string }[];
  return [
    ...jobs.map((job) => `job ${JSON.stringify(job)}`),
    ...nodes.map((node) => node["node-name"]).filter((name) => name.startsWith("qmpbackup")),
    ...objects.map(({ name }) => name).filter((name) => name.startsWith("qmpbackup")),
  ];
}

/**
 * Asserts that nothing of ours is left in QEMU but the bitmaps that are expected for each disk: so many
 * backups', and as many sentinels unless it is said.
 */
export async function assertNothingLeft(
  vm: Vm,
  bitmapsPerDisk: number,
  sentinelsPerDisk = bitmapsPerDisk,
): Promise<void> {
  const left = await leftInQemu(vm);
  if (left.length > 0) throw new Error(`Left in QEMU: ${left.join(", ")}`);
  for (const { inserted, qdev } of await queryBlock(vm)) {
    const names = (inserted?.["dirty-bitmaps"] ?? []).flatMap(({ name }) => name || []);
    const sentinels = names.filter(isSentinel);
    const count = names.length - sentinels.length;
    if (count !== bitmapsPerDisk || sentinels.length !== sentinelsPerDisk) {
      throw new Error(
        `${qdev} has the bitmaps ${names.join(", ")}, expected ${bitmapsPerDisk} and ` +
          `${sentinelsPerDisk} sentinels`,
      );
    }
  }
}
