/**
 * The restore points that a target reports, and what each disk held at that moment.
 *
 * @module
 */

import { exists } from "../../src/fs/durable.ts";
import { compare } from "./qemu_img.ts";
import type { Scene } from "./scene.ts";
import { succeed } from "./tool.ts";
import { deadline } from "./deadline.ts";

export interface ReportedPoint {
  run: string;
  /** The disk's name, which is its folder, too. */
  disk: string;
  level: string;
  /** The raw copies of what the disk held; it must be one of them. */
  held: string[];
}

export class ReportedPoints {
  readonly #points = new Map<string, ReportedPoint>();

  constructor(readonly scene: Scene) {}

  /**
   * Looks what has been reported as done since the last look, and what was has to be there still.
   *
   * @param moments Of `scene.remember()`: each of the new ones must hold what its disk held at one.
   */
  async look(...moments: string[]): Promise<ReportedPoint[]> {
    const done = await this.#done();
    const gone = [...this.#points.keys()].filter((key) => !done.has(key));
    if (gone.length > 0) throw new Error(`Reported as done before, and now gone: ${gone}`);
    return [...done].filter(([key]) => !this.#points.has(key)).map(([key, row]) => {
      const id = row.disk.replace("disk", "vd");
      const point = {
        ...row,
        held: moments.map((moment) => this.scene.dir.join(`${moment}.${id}.raw`)),
      };
      this.#points.set(key, point);
      return point;
    });
  }

  /** Restores points, by default all, and compares each with what the disk held. */
  async restore(points: Iterable<ReportedPoint> = this.#points.values()): Promise<void> {
    for (const { run, disk, held } of points) {
      const file = this.scene.dir.join("restored");
      await succeed([
        ...["restore", "merge", "--dir", `${this.scene.target}/${disk}`, "--until", run],
        // The comparison says more than a check of each image's tables, and takes less time.
        ...["--targetfile", file, "--skip-check"],
      ]);
      await compareWithAny(held, file);
      await Deno.remove(file);
    }
  }

  async #done(): Promise<Map<string, Omit<ReportedPoint, "held">>> {
    // Cut off that early, a run has made no target.
    if (!await exists(deadline, this.scene.target)) return new Map();
    const { stdout } = await succeed([
      ...["info", "--show", "backups", "--dir", this.scene.target, "--json"],
    ]);
    const lines = stdout.trim().split("\n").map((line) => JSON.parse(line) as RunLine);
    const rows = lines.filter(({ message_type }) => message_type === "run").flatMap((run) =>
      run.disks.filter(({ result }) => result === "done")
        .map(({ name, level }) => ({ run: run.id, disk: name, level }))
    );
    return new Map(rows.map((row) => [`${row.run}/${row.disk}`, row]));
  }
}

async function compareWithAny(held: string[], file: string) {
  const compared = await Promise.allSettled(held.map((raw) => compare(raw, "raw", file, "qcow2")));
  const failed = compared.find((result) => result.status === "rejected");
  if (failed && !compared.some((result) => result.status === "fulfilled")) throw failed.reason;
}

interface RunLine {
  message_type: string;
  id: string;
  disks: { name: string; level: string; result: string }[];
}
