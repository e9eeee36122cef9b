/**
 * A backup directory of a life: its restore points with what each must hold, and of which disks an
 * increment must be possible.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { succeed, tool } from "../support/tool.ts";
import { type Moments, readSectors, type Sectors } from "./shadow.ts";

/** A disk of a run, as `info --show backups` tells. */
export interface Row {
  /** The device's own, not its path. */
  id: string;
  name: string;
  folder: string;
  level: "full" | "inc" | "copy";
  file: string;
  parent: string | null;
  bitmap: string | null;
  result: string;
}

export interface Run {
  id: string;
  state: string;
  disks: Row[];
}

export class Target {
  /** What each restore point may hold, by `keyOf()`. */
  readonly #points = new Map<string, Moments>();
  /** The disks whose bitmap has counted since their last backup. */
  readonly #withBitmap = new Set<string>();
  runs: Run[] = [];

  constructor(readonly path: string) {}

  /** Whether an increment of a disk can be taken. */
  hasBitmap(diskId: string): boolean {
    return this.#withBitmap.has(diskId);
  }

  /** Whether there is something that a disk can be compared with. */
  hasChain(diskId: string): boolean {
    return this.points().some(([, { id, level }]) => id === diskId && level !== "copy");
  }

  loseBitmaps(diskIds: string[]): void {
    for (const id of diskIds) this.#withBitmap.delete(id);
  }

  /**
   * Reads the records after a run of ours, which may show any of these moments.
   *
   * @returns The run's record, or null if it has left none.
   */
  async addRun(moments: Moments): Promise<Run | null> {
    const known = new Set(this.runs.map(({ id }) => id));
    await this.read();
    const fresh = this.runs.filter(({ id }) => !known.has(id));
    assert(fresh.length <= 1, "A run has left one record at most");
    const [run] = fresh;
    for (const row of run?.disks ?? []) {
      if (row.result !== "done") continue;
      this.#points.set(keyOf(run as Run, row), moments);
      if (row.level !== "copy") this.#withBitmap.add(row.id);
    }
    this.assertPoints();
    return run ?? null;
  }

  async read(): Promise<void> {
    const { code, stdout } = await tool([
      "info",
      "--show",
      "backups",
      "--dir",
      this.path,
      "--json",
    ]);
    // Not made yet: its first run was refused.
    if (code === 2) return;
    const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
    const runs: Run[] = lines.filter(({ message_type }) => message_type === "run");
    this.runs = runs.map((run) => (
      { ...run, disks: run.disks.map((row) => ({ ...row, id: deviceOf(row.id) })) }
    ));
  }

  /** The points that the records call done. */
  points(): [Run, Row][] {
    return this.runs.flatMap((run) =>
      run.disks.filter(({ result }) => result === "done").map((row): [Run, Row] => [run, row])
    );
  }

  /** The images below a point's and its own, the point's first. */
  chainOf(row: Row): Row[] {
    const rows = this.runs.flatMap(({ disks }) => disks)
      .filter(({ result }) => result === "done" || result === "superseded");
    const chain = [row];
    for (let next = row.parent; next !== null;) {
      const below = rows.find(({ file }) => file === next);
      if (!below) throw new Error(`"${row.file}" builds on "${next}", which no record has`);
      chain.push(below);
      next = below.parent;
    }
    return chain;
  }

  /** No point may be lost, and none come from nowhere. */
  assertPoints(): void {
    const keys = this.points().map(([run, row]) => keyOf(run, row));
    assertEquals(keys.toSorted(), [...this.#points.keys()].sort());
  }

  /** Forgets points that a commit went over. */
  forget(gone: [Run, Row][]): void {
    for (const [run, row] of gone) this.#points.delete(keyOf(run, row));
  }

  /** Restores a point and compares it with what it must hold. */
  async verify(run: Run, row: Row, scratch: string): Promise<void> {
    const out = join(scratch, "restored.raw");
    await succeed([
      ...["restore", "merge", "--dir", join(this.path, row.folder), "--format", "raw"],
      ...["--targetfile", out, "--until", row.file.split("/").at(-1) ?? ""],
    ]);
    try {
      this.narrow(run, row, await readSectors(out));
    } finally {
      await Deno.remove(out);
    }
  }

  /** Compares what a point was found to hold with what it must hold. */
  narrow(run: Run, row: Row, found: Sectors): void {
    try {
      this.#points.get(keyOf(run, row))?.narrow(row.id, found);
    } catch (error) {
      const words = error instanceof Error ? error.message : String(error);
      throw new Error(`${row.file} of the run ${run.id} is not what ${row.id} held. ${words}`);
    }
  }
}

/** The id of a virtio device, from the path by which QEMU knows it. */
export function deviceOf(path: string): string {
  return path.split("/")[3] ?? path;
}

const keyOf = (run: Run, row: Row) => `${run.id} ${row.id}`;
