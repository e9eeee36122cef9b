/**
 * The VM of a life with its disks, and the shadow that follows them.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { leftInQemu } from "../support/scene.ts";
import { convertToRaw, create } from "../support/qemu_img.ts";
import { succeed } from "../support/tool.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { mountTmpfs, type Tmpfs } from "../support/tmpfs.ts";
import { type DiskSpec, startVm, type Vm } from "../support/vm.ts";
import {
  type Change,
  changed,
  difference,
  readSectors,
  sectorsToBytes,
  type Shadow,
  withDisk,
} from "./shadow.ts";
import type { ChangeStep, ClusterBytes, Share } from "./steps.ts";
import type { Attached } from "./attachments.ts";
import { Target } from "./target.ts";

const MIB = 1 << 20;
/** Discards are of whole parts of this size: what is less than a cluster of the disk QEMU leaves as it is. */
const DISCARD_SECTORS = (512 << 10) / 512;
/** No disk grows beyond this, and there are no more disks: a life must be quick. */
const MAX_SECTORS = 12 * MIB / 512;
const MAX_DISKS = 4;
const ROOM_BYTES = 256 * MIB;

/** What is picked by a share. */
export function pick<T>(all: readonly T[], share: Share): T {
  const one = all[Math.floor(share * all.length)];
  if (one === undefined) throw new Error("There is nothing to pick from");
  return one;
}

/** What a life was like. */
export interface Tally {
  steps: number;
  /** Runs of the tool, by the subcommand and what became of it. */
  runs: Map<string, number>;
  /** Restore points: one for each disk of a run that was done. */
  taken: number;
  compared: number;
}

export class World implements AsyncDisposable {
  readonly disks: DiskSpec[] = [];
  targets: Target[];
  /** What the disks hold now. */
  now: Shadow = new Map();
  /** Runs that no prune may remove. */
  readonly protected = new Set<string>();
  attached: Attached[] = [];
  /** What was done, for whoever has to find out why a life failed. */
  readonly story: string[] = [];
  readonly tally: Tally = { steps: 0, runs: new Map(), taken: 0, compared: 0 };
  #targetsSoFar = 0;

  private constructor(
    readonly dir: TempDir,
    /** Holds the targets, to be filled up. */
    readonly room: Tmpfs,
    public vm: Vm,
    private readonly cleanup: AsyncDisposableStack,
  ) {
    this.targets = [this.#newTarget(), this.#newTarget()];
  }

  /** A VM with one disk of each format. */
  static async create(): Promise<World> {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const room = stack.use(await mountTmpfs(dir.join("room"), ROOM_BYTES));
    stack.use(await mountTmpfs(dir.join("vm"), 2 * ROOM_BYTES));
    const vm = await startVm({ dir: dir.path, disks: [], running: true });
    const world = new World(dir, room, vm, stack.move());
    world.cleanup.defer(() => world.vm[Symbol.asyncDispose]());
    await world.addDisk(65536, 0.5);
    await world.addDisk(null, 0.2);
    return world;
  }

  onEnd(cleanUp: () => Promise<void>): void {
    this.cleanup.defer(cleanUp);
  }

  tell(words: string): void {
    this.story.push(`   ${words}`);
  }

  count(run: string): void {
    const { runs } = this.tally;
    runs.set(run, (runs.get(run) ?? 0) + 1);
  }

  /** Plugs in a disk of an odd size. Not more than some. */
  async addDisk(clusterBytes: ClusterBytes, size: Share): Promise<void> {
    if (this.disks.length === MAX_DISKS) return;
    const n = this.disks.length;
    const sectors = Math.floor((1 + size * 5) * MIB / 512) + 8 * n;
    const format = clusterBytes === null ? "raw" : "qcow2";
    const path = this.dir.join("vm", `disk${n}.${format}`);
    const options = clusterBytes === null ? [] : [`cluster_size=${clusterBytes}`];
    await create(path, sectorsToBytes(sectors), { format, options });
    const disk: DiskSpec = { id: `vd${n}`, node: `disk${n}`, path, format };
    this.tell(`${disk.id}: ${format} ${options} ${sectors}`);
    await this.vm.addDisk(disk);
    this.disks.push(disk);
    this.now = withDisk(this.now, disk.id, new Uint8Array(sectors));
  }

  /** Changes a disk, and the shadow with it. */
  async change(step: ChangeStep): Promise<void> {
    const change = this.#resolve(step);
    if (change === null) return;
    if (change.kind === "grow") {
      if (!await this.#grow(change.disk, sectorsToBytes(change.sectors))) return;
    } else {
      const [offset, length] = [sectorsToBytes(change.first), sectorsToBytes(change.count)];
      if (change.kind === "write") await this.vm.write(change.disk, change.value, offset, length);
      else await this.vm[change.kind](change.disk, offset, length);
    }
    this.now = changed(this.now, change);
    this.tell(Object.values(change).join(" "));
  }

  #resolve({ kind, disk, at, size, value }: ChangeStep): Change | null {
    const { id } = pick(this.disks, disk);
    const sectors = this.now.get(id)?.length ?? 0;
    if (kind === "grow") {
      const grown = sectors + 1 + Math.floor(size * sectors);
      return grown > MAX_SECTORS ? null : { kind, disk: id, sectors: grown };
    }
    const unit = kind === "discard" ? DISCARD_SECTORS : 1;
    const units = Math.floor(sectors / unit);
    const first = Math.floor(at * units);
    const count = Math.min(1 + Math.floor(size * units), units - first);
    return {
      kind,
      disk: id,
      first: first * unit,
      count: count * unit,
      value: kind === "write" ? value : 0,
    };
  }

  /** QEMU refuses it while a filter, a job or a dead run's, is on the disk. */
  async #grow(id: string, sizeBytes: number): Promise<boolean> {
    const node = this.disks.find((disk) => disk.id === id)?.node;
    try {
      await this.vm.execute("block_resize", { "node-name": node, size: sizeBytes });
      return true;
    } catch (error) {
      if (/resize|in use|busy/i.test(String(error))) return false;
      throw error;
    }
  }

  /** Starts QEMU again, cleanly or after `kill()`: it depends on that what becomes of the bitmaps. */
  async restart(cleanly: boolean): Promise<void> {
    if (cleanly) await this.vm.quit();
    await this.vm[Symbol.asyncDispose]();
    this.vm = await startVm({ dir: this.dir.path, disks: this.disks, running: true });
    const lost = this.disks.filter(({ format }) => !cleanly || format === "raw");
    for (const target of this.targets) target.loseBitmaps(lost.map(({ id }) => id));
  }

  /** What was not flushed could be lost with QEMU, and the shadow would not know. */
  async kill(): Promise<void> {
    this.tell("kill -9 of QEMU");
    for (const { id } of this.disks) await this.vm.flush(id);
    this.vm.kill("SIGKILL");
    await this.vm.exited;
  }

  #newTarget(): Target {
    return new Target(this.dir.join("room", `target${this.#targetsSoFar++}`));
  }

  /**
   * As with `--monthly`: another folder takes its place, and the bitmaps of the old one stay. With a
   * dead run's lock in it, it could not be removed: nothing else proves that the run is dead.
   */
  async replace(target: Target): Promise<void> {
    await this.recover(target);
    this.targets = this.targets.map((old) => old === target ? this.#newTarget() : old);
    await Deno.remove(target.path, { recursive: true }).catch(() => {});
  }

  /** Puts right what dead runs left; of a target without a record it is an error to ask for that. */
  async recover(target: Target): Promise<void> {
    const where = target.runs.length > 0 ? ["--target", target.path] : [];
    await succeed(["cleanup", "--recover", "--socket", this.vm.socket, ...where]);
    assertEquals(await leftInQemu(this.vm), []);
  }

  async removeBitmaps(): Promise<void> {
    await succeed(["cleanup", "--remove-bitmap", "--socket", this.vm.socket]);
    for (const target of this.targets) target.loseBitmaps(this.disks.map(({ id }) => id));
  }

  /** Compares the disks with the shadow: what is compared with it must be right itself. */
  async assertShadow(): Promise<void> {
    const raw = this.dir.join("vm", "now.raw");
    for (const { id, path, format } of this.disks) {
      await this.vm.flush(id);
      await convertToRaw(path, format, raw);
      assertEquals(
        difference(this.now.get(id), await readSectors(raw)),
        null,
        `The shadow of ${id}`,
      );
    }
    await Deno.remove(raw);
  }

  /** What QEMU said last, and how it ended if it has. */
  async lastWords(): Promise<string> {
    const running = new Promise((resolve) => setTimeout(resolve, 100, "runs"));
    const state = await Promise.race([this.vm.exited, running]);
    const log = (await Deno.readTextFile(this.vm.log)).split("\n").slice(-10).join("\n");
    return `QEMU: ${JSON.stringify(state)}\n${log}`;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.cleanup.disposeAsync();
  }
}
