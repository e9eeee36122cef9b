/**
 * Makes a chain long in a moment: hundreds of increments, each a real qcow2 image with some clusters of its own and
 * a record.
 *
 * @module
 */

import { basename, join } from "@std/path";
import { emptyQcow2 } from "../../src/qcow2/empty.ts";
import { lookAtImage } from "../../src/repo/fingerprint.ts";
import { runId } from "../../src/repo/layout.ts";
import { formatRecord, type RunRecord } from "../../src/repo/record.ts";
import { readTarget, recordFile } from "../../src/repo/repository.ts";
import { deadline } from "./deadline.ts";

/** What an increment holds: this byte in so many clusters, from this one on. */
export interface Increment {
  cluster: number;
  clusters: number;
  value: number;
}

/** The bytes of an increment's image. Its clusters must lie behind one L2 table. */
export function incrementBytes(
  { virtualSizeBytes, clusterSizeBytes, backing }: {
    virtualSizeBytes: number;
    clusterSizeBytes: number;
    backing: string;
  },
  { cluster, clusters, value }: Increment,
): Uint8Array {
  const empty = emptyQcow2({ virtualSizeBytes, clusterSizeBytes });
  const bytes = new Uint8Array(empty.length + (1 + clusters) * clusterSizeBytes);
  bytes.set(empty);
  const view = new DataView(bytes.buffer);
  const name = new TextEncoder().encode(backing);
  // Behind the header and the extension that names the parent's format.
  const format = new TextEncoder().encode("qcow2");
  view.setUint32(104, 0xe2792aca);
  view.setUint32(108, format.length);
  bytes.set(format, 112);
  view.setBigUint64(8, 160n);
  view.setUint32(16, name.length);
  bytes.set(name, 160);
  const offset = (at: number) => Number(view.getBigUint64(at));
  const entries = clusterSizeBytes / 8;
  const l2At = empty.length;
  const COPIED = 1n << 63n;
  view.setBigUint64(offset(40) + Math.floor(cluster / entries) * 8, BigInt(l2At) | COPIED);
  for (let i = 0; i < clusters; i++) {
    const dataAt = BigInt(l2At + (1 + i) * clusterSizeBytes);
    view.setBigUint64(l2At + ((cluster + i) % entries) * 8, dataAt | COPIED);
  }
  bytes.fill(value, l2At + clusterSizeBytes);
  const countsAt = offset(offset(48));
  for (let at = empty.length; at < bytes.length; at += clusterSizeBytes) {
    view.setUint16(countsAt + at / clusterSizeBytes * 2, 1);
  }
  return bytes;
}

/** The increment after so many. */
export function incrementAt(index: number, diskClusters: number, clusters = 1): Increment {
  const places = Math.floor(diskClusters / clusters);
  return { cluster: (index * 7 % places) * clusters, clusters, value: 1 + index % 255 };
}

/**
 * Adds increments to a target's only disk. The last one has the bitmap that the VM has, so that the next backup goes
 * on from there.
 *
 * @param clusters In each.
 * @returns What each holds, in order.
 */
export async function addIncrements(
  target: string,
  count: number,
  { clusterSizeBytes = 4096, clusters = 1 } = {},
): Promise<Increment[]> {
  const last = (await readTarget(deadline, target)).runs.at(-1);
  const row = last?.disks[0];
  if (!last || !row) throw new Error(`There is no backup in "${target}"`);
  const { folder, virtualSizeBytes } = row;
  const [, seconds = "0", fileName] = /-(\d+)-(.*)$/.exec(basename(row.file)) ?? [];
  const made: Increment[] = [];
  let parent = row.file;
  const bitmap = row.bitmap;
  const write = (run: RunRecord) =>
    Deno.writeTextFile(recordFile(target, run), formatRecord(run), { mode: 0o600 });
  if (bitmap !== null) {
    await write({ ...last, disks: [{ ...row, bitmap: oldBitmap(bitmap, 0) }] });
  }
  const sequence = last.sequence;
  for (let i = 1; i <= count; i++) {
    const time = new Date((Number(seconds) + i) * 1000);
    const file = join(folder, `INC-${Number(seconds) + i}-${fileName}`);
    const holds = incrementAt(i, Math.floor(virtualSizeBytes / clusterSizeBytes), clusters);
    const backing = basename(parent);
    const image = incrementBytes({ virtualSizeBytes, clusterSizeBytes, backing }, holds);
    const path = join(target, file);
    await Deno.writeFile(path, image, { mode: 0o400 });
    const look = await lookAtImage(deadline, path);
    if ("state" in look) throw new Error(`"${path}" ${look.reason}`);
    const at = time.toISOString();
    await write({
      ...last,
      id: runId(time, i.toString(16).padStart(8, "0")),
      sequence: sequence + i,
      state: "done",
      started: at,
      pointInTime: at,
      finished: at,
      disks: [{
        ...row,
        level: "inc",
        file,
        parent,
        bitmap: i === count || bitmap === null ? bitmap : oldBitmap(bitmap, i),
        bytesWritten: image.length,
        fingerprint: look.fingerprint,
        result: "done",
        error: null,
      }],
    });
    made.push(holds);
    parent = file;
  }
  return made;
}

/** As one of ours that is gone. */
function oldBitmap(name: string, index: number): string {
  return name.replace(/-[0-9a-z]{8}-/, `-${index.toString(16).padStart(8, "0")}-`);
}
