/**
 * What a prune would win, without doing it.
 *
 * @module
 */

import { join } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { images } from "../repo/chains.ts";
import type { DiskRecord } from "../repo/record.ts";
import { measureChain, QemuImgError } from "../qemu_img/qemu_img.ts";
import { LUKS_HEADER_BYTES } from "../qemu_img/key.ts";
import { type MergeContext, sourceOf } from "./merge_images.ts";
import { nextStep, type Step } from "./next_step.ts";
import { bytesOf, type PrunePlan } from "./prune.ts";
import type { KnownTarget } from "./run_points.ts";

/** With the file that holds the key of encrypted images. */
type Measuring = Pick<MergeContext, "signal" | "keyFile">;

/** The bytes that the images would take less. What is merged is measured, and may come out a little smaller. */
export async function estimateWon(
  deadline: Deadline,
  { targets, verdicts }: PrunePlan,
  how: Measuring,
): Promise<number> {
  let wonBytes = 0;
  for (const target of targets) {
    const before = await bytesOf(deadline, target);
    const going = verdicts.filter(({ point, reasons }) =>
      point.target === target.path && reasons.length === 0
    );
    const ids = new Set(going.map(({ point }) => point.run.id));
    const runs = structuredClone(target.runs);
    for (const run of runs.filter(({ id }) => ids.has(id))) {
      for (const row of run.disks) if (row.result === "done") row.result = "superseded";
    }
    wonBytes += before - await simulate(deadline, { ...target, runs }, how);
  }
  return Math.max(wonBytes, 0);
}

/** @returns What the images take in the end. */
async function simulate(
  deadline: Deadline,
  { path, runs, inUse }: KnownTarget,
  how: Measuring,
): Promise<number> {
  const merged = new Map<string, string[]>();
  const open = new Set(inUse.keys());
  const next = () => nextStep(runs, new Set(), open);
  for (let step = next(); step; step = next()) {
    if (step.kind === "merge" || step.kind === "roll") {
      const file = step.kind === "roll" ? step.file : step.into.disk.file;
      merged.set(file, step.layers.flatMap(({ file }) => merged.get(file) ?? [file]));
      step.into.disk.bytesWritten = step.layers.reduce((sum, one) => sum + one.bytesWritten, 0);
    }
    apply(step);
  }
  let sizeBytes = 0;
  for (const { run, disk } of images(runs)) {
    const files = merged.get(disk.file);
    // Measured once they are all known: a chain takes long to open.
    sizeBytes += files
      ? await sizeOf(deadline, files.map((file) => join(path, file)), disk, how)
      : await bytesOf(deadline, { path, runs: [{ ...run, disks: [disk] }] });
  }
  return sizeBytes;
}

async function sizeOf(
  deadline: Deadline,
  paths: string[],
  { bytesWritten, encrypted }: DiskRecord,
  { signal, keyFile: given }: Measuring,
): Promise<number> {
  try {
    const keyFile = encrypted ? given : null;
    const header = encrypted ? LUKS_HEADER_BYTES : 0;
    const source = sourceOf(paths, keyFile);
    return header + await measureChain(deadline, paths, source, { signal, keyFile });
  } catch (error) {
    // A chain that is too long for one look, say.
    if (!(error instanceof QemuImgError)) throw error;
    return bytesWritten;
  }
}

function apply(step: Step) {
  switch (step.kind) {
    case "relink":
      step.child.disk.parent = step.parent.file;
      return;
    case "merge":
      step.into.disk.parent = step.parent.file;
      return;
    case "roll": {
      const { run, disk } = step.into;
      const full: DiskRecord = { ...disk, file: step.file, level: "full", parent: null };
      run.disks = [...run.disks.filter(({ file }) => file !== step.file), full];
      disk.result = "superseded";
      return;
    }
    case "remove":
      for (const { run, disk } of step.points) run.disks = run.disks.filter((row) => row !== disk);
  }
}
