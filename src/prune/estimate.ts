/**
 * What a prune would win, without doing it.
 *
 * @module
 */

import { join } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { images } from "../repo/chains.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import { measureChain, QemuImgError } from "../qemu_img/qemu_img.ts";
import { chainSource } from "../restore/passes.ts";
import { nextStep, type Step } from "./next_step.ts";
import { bytesOf, type PrunePlan } from "./prune.ts";

/** The bytes that the images would take less. What is merged is measured, and may come out a little smaller. */
export async function estimateWon(
  deadline: Deadline,
  { targets, verdicts }: PrunePlan,
  signal: AbortSignal,
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
    wonBytes += before - await simulate(deadline, target.path, runs, signal);
  }
  return Math.max(wonBytes, 0);
}

/** @returns What the images take in the end. */
async function simulate(
  deadline: Deadline,
  path: string,
  runs: RunRecord[],
  signal: AbortSignal,
): Promise<number> {
  const merged = new Map<string, string[]>();
  const sizes = new Map<string, number>();
  for (let step = nextStep(runs); step; step = nextStep(runs)) {
    if (step.kind === "merge" || step.kind === "roll") {
      const files = step.layers.flatMap(({ file }) => merged.get(file) ?? [file]);
      const file = step.kind === "roll" ? step.file : step.into.disk.file;
      merged.set(file, files);
      sizes.set(
        file,
        await sizeOf(deadline, files.map((one) => join(path, one)), step.layers, signal),
      );
    }
    apply(step);
  }
  const rest = new Set(images(runs).map(({ disk }) => disk.file));
  for (const file of merged.keys()) rest.delete(file);
  const kept = images(runs).map(({ run, disk }) => ({
    ...run,
    disks: rest.has(disk.file) ? [disk] : [],
  }));
  const files = new Set(images(runs).map(({ disk }) => disk.file));
  const added = [...sizes].filter(([file]) => files.has(file)).map(([, bytes]) => bytes);
  return await bytesOf(deadline, { path, runs: kept }) +
    added.reduce((sum, bytes) => sum + bytes, 0);
}

async function sizeOf(
  deadline: Deadline,
  paths: string[],
  layers: DiskRecord[],
  signal: AbortSignal,
): Promise<number> {
  try {
    return await measureChain(deadline, paths, chainSource(paths), { signal });
  } catch (error) {
    // A chain that is too long for one look, say.
    if (!(error instanceof QemuImgError)) throw error;
    return layers.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0);
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
